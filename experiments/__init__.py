"""What stands on top of the whole: pictures and studies. Nothing below imports it."""
