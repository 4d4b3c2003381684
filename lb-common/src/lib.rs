//! What both sides of Portside must agree on.
#![cfg_attr(not(feature = "std"), no_std)]
