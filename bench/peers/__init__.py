"""What our figures are judged by: others' implementations, each in processes of its own."""
