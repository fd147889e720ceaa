"""The dialects in bytes: requests in, answers and errors out. No I/O."""
