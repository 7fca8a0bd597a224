"""What can go wrong with the store.

    StoreError
        SpoolError           the spool's folder cannot be used (local)
        DatabaseError        the database cannot be used now; carries what to do about it
            RecordRefused    it can, but not for this record (local)

Their messages name the remedy and hold neither passwords nor anything of a call.
"""


class StoreError(Exception):
    """The store cannot do what it was asked."""


class SpoolError(StoreError):
    """The spool's folder cannot be made, written or locked."""


class DatabaseError(StoreError):
    """The database cannot be used now."""


class RecordRefused(DatabaseError):
    """The database takes other records, but not this one."""
