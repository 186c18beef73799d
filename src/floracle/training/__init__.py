"""Making a field: networks trained on the targets of data, and on the oracle itself."""
