"""The two stages of a data set, predicted without posteriors."""
