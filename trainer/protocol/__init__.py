"""The wire format between agents and the coordinator, generated from swell.proto."""
