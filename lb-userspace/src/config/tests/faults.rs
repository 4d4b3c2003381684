//! What a user reads for each fault, to the letter: the helpers, and the cases that are no plain replacement.

use super::{super::parse, BASE, changed};

/// Every line that a text's faults give.
pub(super) fn told(text: &str) -> String {
    match parse(text, "p.yaml") {
        Ok(checked) => panic!("accepted, with the warnings {:?}: {text}", checked.warnings),
        Err(faults) => faults.to_string(),
    }
}

/// What is replaced in the base, by what, and the lines that this gives.
type Row = (&'static str, &'static str, &'static [&'static str]);

pub(super) fn holds(rows: &[Row]) {
    for (from, to, expected) in rows {
        assert_eq!(told(&changed(from, to)), expected.join("\n"), "with {from:?} replaced by {to:?}");
    }
}

/// Addresses that no host of a network has.
#[test]
fn unusable_addresses() {
    for (address, fault) in [
        ("::", "is the unspecified address"),
        ("::1", "is a loopback address, which no packet from a network has"),
        ("ff02::1", "is a multicast address"),
        ("fe80::1", "is a link-local address, which routes cannot reach"),
        ("::ffff:10.0.0.1", "is an IPv4 address in IPv6 form"),
    ] {
        let text = changed("ipv4: [10.0.0.2],", &format!("ipv4: [10.0.0.2], ipv6: ['{address}'],"));
        let expected =
            format!("p.yaml:2:34: snat.ipv6[0]: {address} {fault}; give a unicast address of the network");
        assert_eq!(told(&text), expected);
    }
}

/// Text that is no configuration at all.
#[test]
fn no_configuration() {
    for (text, expected) in [
        (
            "",
            "p.yaml:1:1: there is no configuration here; `interfaces`, `services` and `groups` are the least",
        ),
        (
            "# nothing\n",
            "p.yaml:2:1: there is no configuration here; `interfaces`, `services` and `groups` are the least",
        ),
        ("[a, b]", "p.yaml:1:1: this is a list; a configuration is a map of keys to values"),
        ("hello", "p.yaml:1:1: this is text; a configuration is a map of keys to values"),
        ("a: [", "p.yaml:1:4: this is no valid YAML: unclosed bracket '['"),
        ("a: b: c", "p.yaml:1:5: this is no valid YAML: mapping values are not allowed in this context"),
        ("a: *b", "p.yaml:1:4: this is no valid YAML: reference to unknown value"),
        ("a: 1\n---\nb: 1\n", "p.yaml:2:1: a second document begins here; give one"),
    ] {
        assert_eq!(told(text), expected, "{text:?}");
    }
}

/// Text that would take too much memory, time or stack is refused at once.
#[test]
fn bounded() {
    let long = format!("#{}", " ".repeat(super::super::MAX_TEXT));
    assert_eq!(told(&long), "p.yaml:1:1: 16777217 bytes are too long; a configuration has at most 16777216");
    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    assert_eq!(told(&deep), "p.yaml:1:33: this is nested more than 32 deep; no configuration needs that");
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb += &format!("a{level}: &a{level} [{below}]\n");
    }
    assert!(
        told(&bomb).ends_with("this has too many parts; no configuration needs so many"),
        "{}",
        told(&bomb)
    );
}

/// Many services times many long segments end with a fault instead of taking all memory.
#[test]
fn access_lists_multiply_only_up_to_the_limit() {
    let prefixes: Vec<String> = (0..20_000).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let mut text = changed("[10.1.0.0/16]", &format!("[{}]", prefixes.join(", ")));
    let service = |port| {
        format!(
            "  - {{ name: s{port}, address: 10.9.9.9, protocol: tcp, port: {port}, allow: [office], group: web }}\n"
        )
    };
    let services: String = (1..2000).map(service).collect();
    text = text.replacen("groups:\n", &format!("{services}groups:\n"), 1);
    let told = told(&text);
    let access: Vec<&str> = told.lines().filter(|line| line.contains("access takes more than")).collect();
    assert_eq!(access.len(), 1, "{told}");
}

/// A fault of one kind hides no other.
#[test]
fn all_at_once() {
    let text = "\
interfaces: [eth0, eth0]
xdp: nativ
snat: { ipv4: [10.0.0.2], ports: 20000-99999 }
services:
  - { name: web, address: 10.0.0.100, protocol: tcp, port: 70000, alow: [office], group: wbe }
  - { name: web, address: 10.0.0.100, protocol: 5, port: 80, allow: [office], group: web }
  - 7
groups:
  - name: web
    targets:
      - { name: a, address: 10.0.0.11, port: 8080, weight: }
      - { name: b, address: fd00::12, port: 8080 }
    health: { http: { path: health }, interval: 2 }
api: { listen: 10.0.0.1:80 }
";
    let places: Vec<String> =
        told(text).lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        places,
        [
            "p.yaml:1:20 interfaces[1]",
            "p.yaml:2:6 xdp",
            "p.yaml:3:34 snat.ports",
            "p.yaml:5:60 services[0].port",
            "p.yaml:5:67 services[0].alow",
            "p.yaml:5:90 services[0].group",
            "p.yaml:6:13 services[1].name",
            "p.yaml:6:49 services[1].protocol",
            "p.yaml:6:70 services[1].allow[0]",
            "p.yaml:7:5 services[2]",
            "p.yaml:11:58 groups[0].targets[0].weight",
            "p.yaml:12:29 groups[0].targets[1].address",
            "p.yaml:13:29 groups[0].health.http.path",
            "p.yaml:13:49 groups[0].health.interval",
            "p.yaml:14:16 api.listen",
        ]
    );
}

/// Faults beyond the first thousand are counted, and keys from the text cannot disturb the lines.
#[test]
fn many_and_odd() {
    let text: String = (0..1500).map(|n| format!("key{n}: 1\n")).collect();
    assert!(told(&text).ends_with("\nand 503 more"), "1500 unknown keys and 3 missing ones");
    let odd = told(&format!("{BASE}\"a\\nb\\e[31m{}\": 1\n", "x".repeat(100)));
    assert!(odd.starts_with(r"p.yaml:12:1: a\nb\u{1b}[31mxxx"), "{odd}");
    assert_eq!(odd.lines().count(), 1);
    assert!(odd.len() < 250, "{odd}");
}

/// What is legal but probably not meant.
#[test]
fn warnings() {
    for (from, to, expected) in [
        (
            "allow: [office], ",
            "",
            "p.yaml:5:5: services[0]: has no `allow`, so nobody may connect; list who may, or write any",
        ),
        (
            "[office]",
            "[]",
            "p.yaml:5:71: services[0].allow: is empty, so nobody may connect; list who may, or write any",
        ),
        (
            "[10.1.0.0/16]",
            "['fd00::/64']",
            "p.yaml:5:72: services[0].allow[0]: the segment `office` has no IPv4 prefix, so nobody is meant",
        ),
        (
            "groups:\n",
            "groups:\n  - { name: spare, targets: [{ address: 10.0.0.13, port: 80 }] }\n",
            "p.yaml:7:13: groups[0].name: no service uses the group `spare`",
        ),
        (
            "20000-29999",
            "1000-1999",
            "p.yaml:2:34: snat.ports: has ports below 1024, where the host's own servers listen",
        ),
        (
            "groups:\n",
            "timeouts: { tcp_time_wait: 2s }\ngroups:\n",
            "p.yaml:6:28: timeouts.tcp_time_wait: 2s is less than Linux targets hold a closed connection, so a client \
             whose port meets one has to try again; give 66s, or what the targets' own system needs",
        ),
    ] {
        let checked = parse(&changed(from, to), "p.yaml").expect("a warning is no fault");
        let warnings: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, [expected]);
    }
}
