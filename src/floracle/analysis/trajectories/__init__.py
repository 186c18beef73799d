"""What happens along trajectories: predictions, speed, curvature, settling."""
