"""Digests of fields, as the tests of identity compare them."""

from floracle.models.identity import field_fingerprint

SHAPE = (6,)


def told(field, shape=SHAPE, **known):
    """The digest of a field that is repeatable and has nothing to be said about."""
    fingerprint = field_fingerprint(field, shape, **known)
    assert fingerprint.repeatable
    assert fingerprint.notes == ()
    return fingerprint.digest
