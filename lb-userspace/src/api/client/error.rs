//! What can go wrong between a client and an agent.

use std::{io, time::Duration};

use super::Address;
use crate::api::types::Problem;

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection could be made, or it broke.
    #[error("cannot reach lbd at {address}: {}", advice(address, source))]
    Unreachable {
        /// Where it should be.
        address: Address,
        /// The system's error.
        source: io::Error,
    },
    /// No answer came in time.
    #[error("lbd at {address} did not answer within {} s; try again, or wait longer with --timeout", limit.as_secs_f64())]
    Timeout {
        /// Where it is.
        address: Address,
        /// How long the client waited.
        limit: Duration,
    },
    /// The agent refused or failed.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The answer is not one of this API.
    #[error("{address} does not answer like lbd: {cause}")]
    Protocol {
        /// Who answered.
        address: Address,
        /// What is wrong with the answer.
        cause: String,
    },
}

fn advice(address: &Address, error: &io::Error) -> String {
    let unix = matches!(address, Address::Unix(_));
    match (error.kind(), unix) {
        (io::ErrorKind::NotFound, true) => {
            "no such file; is lbd running? Start it, or name its socket with --socket".to_owned()
        }
        (io::ErrorKind::ConnectionRefused, true) => {
            "nobody answers on it; lbd has ended without removing it: start it again".to_owned()
        }
        (io::ErrorKind::ConnectionRefused, false) => {
            "nobody listens there; is lbd running, and does its configuration have `api.listen`?".to_owned()
        }
        (io::ErrorKind::PermissionDenied, true) => {
            "permission denied; run lbctl as root, or join the group that owns the socket".to_owned()
        }
        _ => error.to_string(),
    }
}
