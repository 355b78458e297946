//! What policies would have decided about a recorded past.
