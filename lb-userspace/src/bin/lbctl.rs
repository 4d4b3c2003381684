//! `lbctl`
fn main() {}
