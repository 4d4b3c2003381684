//! Where an agent is.

use std::{fmt, path::PathBuf, str::FromStr};

use http::{Uri, uri::Authority};

/// Where an agent's API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// `http://HOST:PORT`.
    Http {
        /// A name or an address, IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Http { host, port } if host.contains(':') => write!(f, "http://[{host}]:{port}"),
            Self::Http { host, port } => write!(f, "http://{host}:{port}"),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    /// Reads `http://HOST:PORT`, with or without its scheme.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address: give HOST:PORT or http://HOST:PORT");
        let authority = match text.split_once("://") {
            None => text.parse::<Authority>().map_err(|_| wrong())?,
            Some(("http", _)) => {
                let uri = text.parse::<Uri>().map_err(|_| wrong())?;
                if !matches!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), None | Some("/")) {
                    return Err(format!("`{text}` has a path: give http://HOST:PORT alone"));
                }
                uri.into_parts().authority.ok_or_else(wrong)?
            }
            Some((scheme, _)) => return Err(format!("{scheme} is not supported: give http://HOST:PORT")),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().ok_or_else(|| format!("`{text}` has no port: give HOST:PORT"))?;
        Ok(Self::Http { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, shown) in [
            ("127.0.0.1:80", "http://127.0.0.1:80"),
            ("http://localhost:9/", "http://localhost:9"),
            ("[::1]:9", "http://[::1]:9"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for (text, part) in [
            ("localhost", "has no port"),
            ("https://localhost:1", "https is not supported"),
            ("http://localhost:1/v1", "has a path"),
            ("a b:1", "is not an address"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
