//! Power cuts at every operation.
