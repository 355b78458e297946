//! temporary
pub mod document;
