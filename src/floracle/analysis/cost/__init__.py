"""What a stages run takes in memory and time, before it is run."""
