"""What Ray schedules: one file each, thin shells over `serve`."""
