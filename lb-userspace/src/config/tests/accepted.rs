//! What accepted configurations become.

use std::{net::IpAddr, path::Path, time::Duration};

use proptest::prelude::*;

use super::{
    super::{Config, model::*, parse},
    BASE, changed,
};

fn accepted(text: &str) -> Config {
    parse(text, "p.yaml").unwrap_or_else(|faults| panic!("{faults}\n{text}")).config
}

fn rule(prefix: &str, allow: bool, segment: Option<&str>) -> AccessRule {
    AccessRule { prefix: prefix.parse().expect("a prefix"), allow, segment: segment.map(str::to_owned) }
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What holds where the file says nothing, as the schema's descriptions tell it.
#[test]
fn defaults() {
    let secs = Duration::from_secs;
    let config =
        accepted(&changed("health: { http: { path: /health }, interval: 2s }", "health: { http: {} }"));
    let expected = Config {
        interfaces: vec!["eth0".to_owned()],
        xdp_mode: XdpMode::Native,
        vip_placement: VipPlacement::Interface,
        snat: Snat {
            ipv4: vec![[10, 0, 0, 2].into()],
            ipv6: vec![],
            ports: PortRange { first: 20_000, last: 29_999 },
        },
        segments: [("office".to_owned(), vec!["10.1.0.0/16".parse().expect("a prefix")])].into(),
        services: vec![Service {
            name: "web".to_owned(),
            address: IpAddr::from([10, 0, 0, 100]),
            protocol: Protocol::Tcp,
            port: 80,
            group: "web".to_owned(),
            access: vec![rule("10.1.0.0/16", true, Some("office"))],
        }],
        groups: vec![TargetGroup {
            name: "web".to_owned(),
            mode: Mode::Nat,
            targets: [("a", 11), ("b", 12)]
                .map(|(name, last)| Target {
                    name: name.to_owned(),
                    address: IpAddr::from([10, 0, 0, last]),
                    port: 8080,
                    zone: None,
                    weight: 1,
                })
                .into(),
            health: Some(HealthCheck {
                probe: Probe::Http(HttpProbe {
                    method: "GET".to_owned(),
                    path: "/".to_owned(),
                    host: None,
                    headers: vec![],
                    expect_status: vec![(200, 399)],
                    expect_body: None,
                }),
                port: None,
                interval: secs(2),
                transition_interval: secs(2),
                timeout: secs(1),
                rise: 2,
                fall: 3,
            }),
            on_target_down: OnTargetDown { tcp: EstablishedFlows::Keep, udp: EstablishedFlows::End },
            on_all_down: OnAllDown::Reject,
            drain_deadline: secs(300),
            table_slots: 16_381,
        }],
        timeouts: Timeouts {
            tcp_handshake: secs(30),
            tcp_established: secs(350),
            tcp_closing: secs(120),
            tcp_time_wait: secs(66),
            udp_unanswered: secs(30),
            udp_established: secs(120),
        },
        limits: Limits {
            flows: 262_144,
            services: 1024,
            targets: 4096,
            groups: 256,
            access_prefixes: 16_384,
            client_routes: 16_384,
        },
        api: Api { listen: None },
    };
    assert_eq!(config, expected);
}

/// The example with every key: each optional one but a few is given its default, so it differs from a plain one in
/// those alone.
#[test]
fn every_key_is_read() {
    let config = accepted(&example("full.yaml"));
    assert_eq!(config.xdp_mode, XdpMode::NativeOrGeneric);
    assert_eq!(config.interfaces, ["eth0", "eth1"]);
    assert_eq!(config.snat.ipv6, ["fd00::2".parse::<std::net::Ipv6Addr>().expect("an address")]);
    assert_eq!(
        config.services[0].access,
        [
            rule("10.1.0.0/16", true, Some("office")),
            rule("10.9.0.7/32", true, Some("monitoring")),
            rule("10.9.0.0/16", true, None),
            rule("10.1.7.0/24", false, None),
        ]
    );
    assert_eq!(config.services[1].access, [rule("::/0", true, None)]);
    assert_eq!(config.services[2].protocol, Protocol::Udp);
    let [web, web_v6, dns] = config.groups.as_slice() else { panic!("three groups") };
    assert_eq!(web.targets[0].zone.as_deref(), Some("z1"));
    assert_eq!((web.targets[0].weight, web.targets[1].weight), (2, 1));
    let health = web.health.as_ref().expect("a health check");
    assert_eq!((health.port, health.transition_interval), (Some(8081), Duration::from_millis(500)));
    assert_eq!(
        health.probe,
        Probe::Http(HttpProbe {
            method: "GET".to_owned(),
            path: "/health".to_owned(),
            host: Some("www.example.com".to_owned()),
            headers: vec![("X-Probe".to_owned(), "portside".to_owned())],
            expect_status: vec![(200, 299), (301, 301)],
            expect_body: Some("^ok".to_owned()),
        })
    );
    assert_eq!(web_v6.targets[0].name, "[fd00::11]:8443");
    let Some(Probe::Https { tls, .. }) = web_v6.health.as_ref().map(|health| &health.probe) else {
        panic!("an HTTPS check")
    };
    assert_eq!(tls.verify, TlsVerify::CaFile("/etc/portside/ca.pem".into()));
    assert_eq!(dns.health.as_ref().map(|health| &health.probe), Some(&Probe::Tcp));
    assert_eq!(config.api.listen, Some(([127, 0, 0, 1], 9100).into()));
}

#[test]
fn the_examples_have_neither_fault_nor_warning() {
    for name in ["portside.yaml", "full.yaml", "demo.yaml"] {
        let checked = parse(&example(name), name).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(checked.warnings, [], "{name}");
    }
}

/// JSON is YAML: the same configuration, whitespace and all.
#[test]
fn json() {
    let json = r#"{
	"interfaces": ["eth0"],
	"snat": {"ipv4": ["10.0.0.2"], "ports": "20000-29999"},
	"segments": {"office": ["10.1.0.0/16"]},
	"services": [{"name": "web", "address": "10.0.0.100", "protocol": "tcp", "port": 80,
		"allow": ["office"], "group": "web"}],
	"groups": [{"name": "web", "targets": [{"name": "a", "address": "10.0.0.11", "port": 8080},
		{"name": "b", "address": "10.0.0.12", "port": 8080}],
		"health": {"http": {"path": "\/health"}, "interval": "2s"}}]
}"#;
    let one_line = serde_json::from_str::<serde_json::Value>(json).expect("JSON").to_string();
    assert_eq!(accepted(json), accepted(BASE));
    assert_eq!(accepted(&one_line), accepted(BASE));
}

/// Other ways to write the same.
#[test]
fn spellings() {
    let same = [
        changed("interval: 2s", "interval: 2000ms"),
        changed("interval: 2s", "interval: 1s1000ms"),
        changed("port: 80,", "port: 0x50,"),
        changed("protocol: tcp", "protocol: \"tcp\""),
        changed("[office]", "[office, office, 10.1.0.0/16]"),
        changed("interfaces: [eth0]", &format!("{}\ninterfaces: [eth0]", "# a comment\n".repeat(200))),
        changed("interfaces: [eth0]", "interfaces:\n- eth0"),
        BASE.replace("port: 8080 }", "port: &port 8080 }").replacen(
            "&port 8080 }\n    health",
            "*port }\n    health",
            1,
        ),
        BASE.replace('\n', "\r\n"),
        format!("\u{feff}{BASE}"),
    ];
    for text in same {
        assert_eq!(accepted(&text), accepted(BASE), "{text}");
    }
}

/// An interval shorter than the default timeout shortens that.
#[test]
fn the_default_timeout_fits_the_interval() {
    let config = accepted(&changed("interval: 2s", "interval: 200ms"));
    let health = config.groups[0].health.as_ref().expect("a health check");
    assert_eq!(health.timeout, Duration::from_millis(200));
    assert_eq!(health.transition_interval, Duration::from_millis(200));
}

proptest! {
    /// Whatever the text, there is an answer, and faults have a place within it.
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        if let Err(faults) = parse(&text, "p.yaml") {
            let lines = u32::try_from(text.lines().count()).expect("a short text") + 1;
            prop_assert!(!faults.faults.is_empty());
            prop_assert!(faults.faults.iter().all(|fault| (1..=lines).contains(&fault.line)));
        }
    }

    /// The same for a configuration with one piece replaced by another.
    #[test]
    fn any_damage_is_answered(from in 0..BASE.len(), length in 0..40_usize, to in "[a-z0-9:{}\\[\\], \n'\"#&*!|>%@-]{0,12}") {
        let mut text = BASE.to_owned();
        text.replace_range(from..(from + length).min(BASE.len()), &to);
        match parse(&text, "p.yaml") {
            Ok(checked) => prop_assert!(!checked.config.interfaces.is_empty()),
            Err(faults) => prop_assert!(!faults.faults.is_empty()),
        }
    }
}
