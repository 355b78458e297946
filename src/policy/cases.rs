//! Tests beside policies.
