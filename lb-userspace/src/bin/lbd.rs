//! `lbd`
fn main() {}
