"""What a task can ask of the loop: precision, schedules, averages, evaluation."""
