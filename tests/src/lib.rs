//! The test harness: packets, program runs and network namespaces as values that clean up after themselves.
