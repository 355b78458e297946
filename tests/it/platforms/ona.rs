//! Ona.
