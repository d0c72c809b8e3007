"""The engine process: owns the device, the models and the step loop."""
