"""What a developer runs and a user never imports."""
