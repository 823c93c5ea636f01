"""What a run's events say, told where people already look: TensorBoard, W&B, MLflow."""
