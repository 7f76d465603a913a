"""All windows of the last tokens that occur in any trajectory, of any length, of a task."""
