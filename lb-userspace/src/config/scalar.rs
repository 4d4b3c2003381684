//! The values without parts: what each looks like in the file, for the reader and for the JSON Schema.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::LazyLock,
    time::Duration,
};

use ipnet::IpNet;
use regex::Regex;
use serde_json::json;

use super::{
    fault::{quoted, suggestion},
    model::{EstablishedFlows, Mode, OnAllDown, PortRange, Protocol, VipPlacement, XdpMode},
    read::{Scalar, wants},
    tree::Value,
};

/// A text of a known form.
macro_rules! text {
    ($(#[doc = $doc:literal])+ $name:ident, $what:literal, $form:literal, $pattern:literal) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) struct $name(pub(super) String);

        impl Scalar for $name {
            fn scan(value: &Value) -> Result<Self, String> {
                static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new($pattern).ok());
                match value {
                    Value::Text(text) if PATTERN.as_ref().is_some_and(|form| form.is_match(text)) => {
                        Ok(Self(text.clone()))
                    }
                    other => Err(wants($what, $form, other)),
                }
            }

            fn schema() -> serde_json::Value {
                json!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

text!(
    /// A service's, group's, target's or zone's name.
    Name, "name", "1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or digit",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
);
text!(
    /// A segment's name; it begins with a letter, so that it cannot be taken for a prefix.
    SegmentName, "segment's name", "1 to 63 letters, digits, `.`, `_` or `-`, the first a letter",
    r"^[A-Za-z][A-Za-z0-9._-]{0,62}$"
);
text!(
    /// A network interface's name, as the kernel takes it.
    InterfaceName, "interface's name", "1 to 15 visible ASCII characters without `/` and `:`",
    r"^[!-.0-9;-~]{1,15}$"
);
text!(
    /// A request's path and query.
    RequestPath, "request's path", "a slash and then visible ASCII characters without `#`",
    r#"^/[!"$-~]{0,1023}$"#
);
text!(
    /// A request's method.
    Method, "request method", "one such as GET",
    r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}$"
);
text!(
    /// A header's name.
    HeaderName, "header's name", "one such as X-Probe",
    r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$"
);
text!(
    /// A header's value.
    HeaderValue, "header's value", "visible ASCII characters, spaces only between them",
    r"^([!-~]([ -~]{0,1022}[!-~])?)?$"
);
text!(
    /// The `Host` header: a name or address, with or without a port.
    HostText, "host", "one such as www.example.com or 10.0.0.1:8080",
    r"^([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?$"
);
text!(
    /// A server's name in TLS.
    ServerNameText, "server's name", "one such as www.example.com, or an address",
    r"^[A-Za-z0-9._:-]{1,255}$"
);
text!(
    /// An absolute path of a file.
    FilePath, "absolute path", "one such as /etc/portside/ca.pem",
    r"^/[^\x00]{1,4095}$"
);
text!(
    /// A regular expression, not yet compiled.
    Pattern, "regular expression", "one of 1 to 1024 characters",
    r"^[\s\S]{1,1024}$"
);

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<const MIN: u32, const MAX: u32> Scalar for Whole<MIN, MAX> {
    fn scan(value: &Value) -> Result<Self, String> {
        whole(value, MIN, MAX).map(Self)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

fn whole(value: &Value, min: u32, max: u32) -> Result<u32, String> {
    let Value::Integer(number) = value else { return Err(no_whole(value, min, max)) };
    u32::try_from(*number)
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("{number} is out of range; give {min} to {max}"))
}

/// What a value that is no integer is told.
fn no_whole(value: &Value, min: u32, max: u32) -> String {
    match value {
        Value::Text(text) if text.parse::<u32>().is_ok() => {
            format!("{} is text; give a number without quotes, from {min} to {max}", quoted(text))
        }
        Value::Text(text) => format!("{} is no whole number; give one from {min} to {max}", quoted(text)),
        Value::Float(number) => format!("{number} is no whole number; give one from {min} to {max}"),
        other => format!("is {}; give a whole number from {min} to {max}", other.kind()),
    }
}

/// A port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port(pub(super) u16);

impl Scalar for Port {
    fn scan(value: &Value) -> Result<Self, String> {
        let Value::Integer(number) = value else { return Err(no_whole(value, 1, 65535)) };
        match u16::try_from(*number) {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(format!("{number} is no port; give 1 to 65535")),
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "integer", "minimum": 1, "maximum": 65535 })
    }
}

/// A range of ports, `20000-29999`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports(pub(super) PortRange);

impl Scalar for Ports {
    fn scan(value: &Value) -> Result<Self, String> {
        const FORM: &str = "one such as 20000-29999";
        if let Value::Integer(number) = value {
            return Err(format!("{number} is no range of ports; give {FORM}"));
        }
        let (first, last) = span(value).ok_or_else(|| wants("range of ports", FORM, value))?;
        match (u16::try_from(first), u16::try_from(last)) {
            (Ok(0), _) | (Err(_), _) | (_, Err(_)) => {
                Err(format!("{first}-{last} is out of range; ports are 1 to 65535"))
            }
            (Ok(first), Ok(last)) if first > last => {
                Err(format!("{first}-{last} runs backwards; did you mean {last}-{first}?"))
            }
            (Ok(first), Ok(last)) => Ok(Self(PortRange { first, last })),
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^[0-9]{1,5}-[0-9]{1,5}$" })
    }
}

/// One status code, or a range of them, `200-299`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statuses(pub(super) u16, pub(super) u16);

impl Scalar for Statuses {
    fn scan(value: &Value) -> Result<Self, String> {
        let (first, last) = match value {
            Value::Integer(code) => (u32::try_from(*code).unwrap_or(0), u32::try_from(*code).unwrap_or(0)),
            other => span(other)
                .ok_or_else(|| wants("status code or range of them", "one such as 204 or 200-299", other))?,
        };
        let code = |code: u32| u16::try_from(code).ok().filter(|code| (100..=599).contains(code));
        match (code(first), code(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first, last)),
            (Some(first), Some(last)) => {
                Err(format!("{first}-{last} runs backwards; did you mean {last}-{first}?"))
            }
            _ => Err("is out of range; status codes are 100 to 599".to_owned()),
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^[1-5][0-9]{2}-[1-5][0-9]{2}$" },
        ]})
    }
}

/// Both ends of `A-B`.
fn span(value: &Value) -> Option<(u32, u32)> {
    let Value::Text(text) = value else { return None };
    let end = |digits: &str| {
        let plain =
            !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    };
    let (first, last) = text.split_once('-')?;
    Some((end(first)?, end(last)?))
}

/// A length of time, `500ms`, `2s`, `1m30s`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

impl Scalar for Time {
    fn scan(value: &Value) -> Result<Self, String> {
        static FORM: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(TIME_FORM).ok());
        const WHAT: &str = "length of time";
        const EXAMPLES: &str = "one such as 500ms, 2s, 5m or 1h30m";
        let Value::Text(text) = value else {
            return Err(match value {
                Value::Integer(number) => {
                    format!("{number} has no unit; give a {WHAT} such as 500ms, 2s, 5m or 1h30m")
                }
                Value::Float(number) => {
                    format!("{number} has no unit; give a {WHAT} such as 500ms, 2s, 5m or 1h30m")
                }
                other => wants(WHAT, EXAMPLES, other),
            });
        };
        let formed = FORM.as_ref().is_some_and(|form| form.is_match(text));
        let parsed = text.parse::<jiff::SignedDuration>().ok().filter(|_| formed);
        let time = parsed
            .and_then(|time| Duration::try_from(time).ok())
            .ok_or_else(|| wants(WHAT, EXAMPLES, value))?;
        Ok(Self(time))
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": TIME_FORM })
    }
}

/// Hours, minutes, seconds and milliseconds in this order; at least one of them.
const TIME_FORM: &str = "^([0-9]{1,6}h([0-9]{1,6}m)?([0-9]{1,6}s)?([0-9]{1,6}ms)?|[0-9]{1,6}m([0-9]{1,6}s)?([0-9]{1,6}ms)?|[0-9]{1,6}s([0-9]{1,6}ms)?|[0-9]{1,9}ms)$";

/// An address that parses as `T`.
macro_rules! address {
    ($(#[doc = $doc:literal])+ $name:ident($type:ty), $what:literal, $form:literal, $schema:expr) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name(pub(super) $type);

        impl Scalar for $name {
            fn scan(value: &Value) -> Result<Self, String> {
                match value {
                    Value::Text(text) => text.parse().map(Self).map_err(|_| wants($what, $form, value)),
                    other => Err(wants($what, $form, other)),
                }
            }

            fn schema() -> serde_json::Value {
                $schema
            }
        }
    };
}

address!(
    /// An address of either family.
    Address(IpAddr), "address", "one such as 10.0.0.1 or fd00::1",
    json!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] })
);
address!(
    /// An IPv4 address.
    Address4(Ipv4Addr), "IPv4 address", "one such as 10.0.0.1",
    json!({ "type": "string", "format": "ipv4" })
);
address!(
    /// An IPv6 address.
    Address6(Ipv6Addr), "IPv6 address", "one such as fd00::1",
    json!({ "type": "string", "format": "ipv6" })
);
address!(
    /// An address and port to listen on.
    Listen(SocketAddr), "address and port", "them like 127.0.0.1:9100",
    json!({ "type": "string", "pattern": r"^([0-9.]{7,15}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}$" })
);

/// A prefix; an address alone is the prefix that holds only it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefix(pub(super) IpNet);

impl Scalar for Prefix {
    fn scan(value: &Value) -> Result<Self, String> {
        const WHAT: &str = "prefix";
        const EXAMPLES: &str = "one such as 10.1.0.0/16 or fd00:1::/64";
        let Value::Text(text) = value else { return Err(wants(WHAT, EXAMPLES, value)) };
        let net = match text.parse::<IpNet>() {
            Ok(net) => net,
            Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| wants(WHAT, EXAMPLES, value))?),
        };
        if net != net.trunc() {
            return Err(format!(
                "{} has bits beyond its length; did you mean {}?",
                quoted(text),
                net.trunc()
            ));
        }
        Ok(Self(net))
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": r"^[0-9A-Fa-f.:]{2,45}(/[0-9]{1,3})?$" })
    }
}

/// Who is meant by an entry of `allow` or `deny`.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A prefix.
    Prefix(IpNet),
    /// A segment by its name.
    Segment(String),
}

impl Scalar for Source {
    fn scan(value: &Value) -> Result<Self, String> {
        match value {
            // An address has a colon or begins with a digit; a segment's name has and does neither.
            Value::Text(text)
                if text.contains([':', '/']) || text.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                Prefix::scan(value).map(|Prefix(net)| Self::Prefix(net))
            }
            _ => match SegmentName::scan(value) {
                Ok(SegmentName(name)) => Ok(Self::Segment(name)),
                Err(_) => Err(wants("segment or prefix", "one such as office or 10.1.0.0/16", value)),
            },
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [<Prefix as Scalar>::schema(), <SegmentName as Scalar>::schema()] })
    }
}

/// A choice between words.
pub(super) trait Words: Copy + 'static {
    /// Every word with what it means.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> Scalar for T {
    fn scan(value: &Value) -> Result<Self, String> {
        let words = || T::WORDS.iter().map(|(word, _)| *word);
        let list = words().collect::<Vec<_>>().join(", ");
        let one_of = if T::WORDS.len() == 1 { "it can only be" } else { "give one of" };
        let Value::Text(text) = value else {
            return Err(format!("is {}; {one_of} {list}", value.kind()));
        };
        match T::WORDS.iter().find(|(word, _)| word == text) {
            Some((_, meaning)) => Ok(*meaning),
            None => {
                Err(format!("there is no {}; {one_of} {list}{}", quoted(text), suggestion(text, words())))
            }
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "enum": T::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
    }
}

impl Words for XdpMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("native", Self::Native), ("native-or-generic", Self::NativeOrGeneric), ("generic", Self::Generic)];
}

impl Words for VipPlacement {
    const WORDS: &'static [(&'static str, Self)] =
        &[("interface", Self::Interface), ("routed", Self::Routed)];
}

impl Words for Protocol {
    const WORDS: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp), ("udp", Self::Udp)];
}

impl Words for Mode {
    const WORDS: &'static [(&'static str, Self)] = &[("nat", Self::Nat)];
}

impl Words for EstablishedFlows {
    const WORDS: &'static [(&'static str, Self)] = &[("keep", Self::Keep), ("end", Self::End)];
}

impl Words for OnAllDown {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("drop", Self::Drop), ("open", Self::Open)];
}

/// How a certificate is verified, where no CA file is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verify {
    /// Against the host's trusted roots.
    System,
    /// Not at all.
    Nothing,
}

impl Words for Verify {
    const WORDS: &'static [(&'static str, Self)] = &[("system", Self::System), ("none", Self::Nothing)];
}
