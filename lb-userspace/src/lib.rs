//! Portside's userspace: the agent `lbd` and its client `lbctl`.
