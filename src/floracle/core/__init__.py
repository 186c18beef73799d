"""The mathematics: paths, clocks, fields, sources of points and folds over them."""
