"""What a user starts: the command line, the study without a browser, publishing, model cards."""
