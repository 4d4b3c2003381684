//! The JSON Schema: current, and of the parser's opinion.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use serde_json::Value;

use super::{
    super::{parse, schema},
    BASE, changed,
};

/// Set to any value, it makes the test write the published schema anew.
const UPDATE: &str = "UPDATE_SCHEMA";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn valid(text: &str) -> bool {
    static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
        let options = jsonschema::options().should_validate_formats(true);
        options.build(&schema()).expect("a valid schema")
    });
    let document: Value = serde_saphyr::from_str(text).expect("the text is YAML");
    VALIDATOR.is_valid(&document)
}

#[test]
fn the_published_schema_is_current() {
    let path = root().join("docs/portside.schema.json");
    let current = format!("{:#}\n", schema());
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &current).expect("docs/ can be written");
    }
    let published = std::fs::read_to_string(&path).expect("docs/portside.schema.json");
    assert!(published == current, "{} is out of date: run this test with {UPDATE}=1", path.display());
}

#[test]
fn the_schema_is_one_of_its_dialect() {
    assert!(jsonschema::meta::is_valid(&schema()));
}

#[test]
fn the_examples_are_valid() {
    for name in ["portside.yaml", "full.yaml", "demo.yaml"] {
        let text = std::fs::read_to_string(root().join("examples").join(name)).expect("an example");
        assert!(valid(&text), "{name}");
    }
}

/// What concerns one value, the parser and the schema must judge alike.
#[test]
fn the_parser_and_the_schema_agree() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "[eth0]",
            &["[eth0]", "[eth0.100]", "[a23456789012345]"],
            &["eth0", "[a234567890123456]", "['a b']", "[1]", "{}"],
        ),
        (
            "[eth0]\n",
            &["[eth0]\nxdp: generic\n", "[eth0]\nvips: routed\n"],
            &["[eth0]\nxdp: on\n", "[eth0]\nvips: []\n"],
        ),
        ("interfaces: [eth0]", &[], &["interface: [eth0]", "interfaces: [eth0]\nmore: 1", "interfaces:"]),
        ("20000-29999", &["1024-1024", "1-65535"], &["20000", "20000-", "x-y", "'20000-29999 '", "[20000]"]),
        ("10.0.0.2]", &["10.0.0.2, 10.0.0.3]"], &["10.0.0.256]", "10.0.0]", "'fd00::1']", "'']", "7]"]),
        (
            "[10.1.0.0/16]",
            &["['::/0']", "[0.0.0.0/0]", "[10.1.2.3]", "[]"],
            &["[office]", "['10.1.0.0/']", "[10]", "['/8']"],
        ),
        ("office: [10.1", &["office: [10.1"], &["7up: [10.1", "'a b': [10.1"]),
        (
            "[office]",
            &["any", "[]", "[10.2.0.0/16, office]", "['10.2.0.9']"],
            &["all", "[a b]", "[7]", "[[]]", "{}"],
        ),
        (
            "name: web, address",
            &["name: W-e.b_9, address"],
            &["name: '-', address", "name: a b, address", "name: 9, address"],
        ),
        ("10.0.0.100", &["10.0.0.101"], &["10.0.0.1/32", "localhost", "1", "10.0.0.01"]),
        (
            "tcp, port: 80",
            &["udp, port: 1", "udp, port: 65535"],
            &["TCP, port: 80", "tcp, port: 0", "tcp, port: 65536", "tcp, port: '80'"],
        ),
        (
            "interval: 2s",
            &[
                "interval: 2500ms",
                "interval: 1m30s",
                "interval: 1h",
                "rise: 1, fall: 100",
                "interval: 1m1ms",
                "port: 1",
            ],
            &[
                "interval: 2",
                "interval: 2d",
                "interval: ''",
                "interval: 1s1m",
                "rise: 0",
                "fall: 101",
                "interval: '2 s'",
            ],
        ),
        (
            "http: { path: /health }",
            &[
                "tcp: {}",
                "http: {}",
                "https: {}",
                "https: {}, tls: { server_name: a.b, verify: none }",
                "https: {}, tls: { ca_file: /a b }",
                "http: { method: HEAD, path: '/a?b=%20', host: '[fd00::1]:80', headers: { A: 'b c', B: '' } }",
                "http: { expect_status: [100, 599, 200-299], expect_body: '^a.*\\d$' }",
            ],
            &[
                "http:",
                "tcp: { port: 1 }",
                "https: {}, tls: { verify: system, ca_file: ca.pem }",
                "http: { path: a }",
                "http: { path: '/a b' }",
                "http: { method: '' }",
                "http: { host: 'a b' }",
                "http: { headers: { 'a b': c } }",
                "http: { headers: { a: ' c' } }",
                "http: { headers: { a: 1 } }",
                "http: { expect_status: 200 }",
                "http: { expect_status: [99] }",
                "http: { expect_status: [200-999] }",
                "http: { expect_body: '' }",
                "http: { expect_body: 1 }",
            ],
        ),
        (
            "- name: web\n",
            &[
                "- name: web\n    mode: nat\n    on_all_down: open\n    on_target_down: { tcp: end, udp: keep }\n",
                "- name: web\n    drain_deadline: 5m\n    table_slots: 65537\n",
            ],
            &[
                "- name: web\n    mode: dsr\n",
                "- name: web\n    on_all_down: []\n",
                "- name: web\n    on_target_down: keep\n",
                "- name: web\n    drain_deadline: 300\n",
                "- name: web\n    table_slots: 131072\n",
                "- name: web\n    weight: 1\n",
            ],
        ),
        (
            "{ name: b, address: 10.0.0.12, port: 8080 }",
            &[
                "{ address: 10.0.0.12, port: 1, zone: z, weight: 1000 }",
                "{ address: 10.0.0.12, port: 1, weight: 0 }",
            ],
            &[
                "{ name: b, address: 10.0.0.12 }",
                "{ address: 10.0.0.12, port: 1, weight: 1001 }",
                "b",
                "{ address: 10.0.0.12, port: 1, weight: 1.5 }",
            ],
        ),
        (
            "services:",
            &[
                "api: {}\nservices:",
                "api: { listen: '[::1]:80' }\nlimits: { flows: 1024 }\ntimeouts: { tcp_closing: 1h }\nservices:",
            ],
            &[
                "api: []\nservices:",
                "api: { listen: localhost:80 }\nservices:",
                "api: { listen: 127.0.0.1 }\nservices:",
                "limits: { flows: 1023 }\nservices:",
                "limits: { flow: 1024 }\nservices:",
                "timeouts: { tcp_closing: 1 }\nservices:",
            ],
        ),
    ];
    for (from, good, bad) in cases {
        for (to, expected) in good.iter().map(|to| (to, true)).chain(bad.iter().map(|to| (to, false))) {
            let text = changed(from, to);
            let parsed = parse(&text, "p.yaml");
            assert_eq!(parsed.is_ok(), expected, "the parser, with {from:?} replaced by {to:?}: {parsed:?}");
            assert_eq!(valid(&text), expected, "the schema, with {from:?} replaced by {to:?}");
        }
    }
    assert!(valid(BASE));
}
