//! The exposition, read by an independent parser.

use lb_userspace::metrics::render;
use openmetrics_parser::{OpenMetricsType, OpenMetricsValue, openmetrics::parse_openmetrics};

use crate::sample;

/// A family's name, its labels' values in the order of their names, and the value that the sample snapshot gives it.
const VALUES: &[(&str, &[&str], f64)] = &[
    ("portside_service_packets", &["in", "web"], 1_234_567.0),
    ("portside_service_packets", &["out", "web6"], 7.0),
    ("portside_service_bytes", &["out", "web"], 1_851_850_500.0),
    ("portside_service_new_flows", &["web"], 123_456.0),
    ("portside_service_active_flows", &["web"], 1500.0),
    ("portside_service_targets_up", &["web"], 1.0),
    ("portside_service_targets", &["web"], 3.0),
    ("portside_service_all_down", &["web"], 0.0),
    ("portside_service_in_kernel", &["web"], 1.0),
    ("portside_target_packets", &["out", "web", "a"], 900.0),
    ("portside_target_bytes", &["out", "web", "a"], 5_368_709_120.0),
    ("portside_target_new_flows", &["web", "a"], 12.0),
    ("portside_target_active_flows", &["web", "a"], 4.0),
    ("portside_target_up", &["web", "a"], 1.0),
    ("portside_target_up", &["web", "c"], 0.0),
    ("portside_target_takes_new_flows", &["web", "10.0.1.2:8080"], 0.0),
    ("portside_target_next_hop_resolved", &["web", "a"], 1.0),
    ("portside_target_weight", &["web", "a"], 2.0),
    ("portside_target_table_slots", &["web", "a"], 65_537.0),
    ("portside_target_draining_flows", &["web", "10.0.1.2:8080"], 9.0),
    ("portside_target_health_check_duration_seconds", &["web", "c"], 0.0125),
    ("portside_verdict_packets", &["forwarded", "transmitted"], 2_469_134.0),
    ("portside_dropped_packets", &["access_denied"], 42.0),
    ("portside_dropped_packets", &["flow_table_full"], 0.0),
    ("portside_transmit_failed_packets", &["eth0"], 5.0),
    ("portside_map_entries", &["flows4"], 1500.0),
    ("portside_map_limit_entries", &["handshakes4"], 65_536.0),
    ("portside_map_memory_bytes", &["flows4"], 25_165_824.0),
    ("portside_configuration_revision", &[], 7.0),
    ("portside_configuration_applied_timestamp_seconds", &[], 1_772_600_767.0),
    ("portside_configuration_file_differs", &[], 1.0),
    ("portside_agent_start_time_seconds", &[], 1_772_600_767.0),
    ("portside_ready", &[], 1.0),
    ("portside_warnings", &[], 1.0),
    ("portside_data_plane_generation", &[], 3.0),
    ("portside_data_plane_epoch", &[], 9.0),
    ("portside_data_plane_drift", &[], 1.0),
    ("portside_interface_attached", &["eth0", "generic", "0123456789abcdef"], 1.0),
];

#[test]
fn a_parser_finds_every_value_with_its_type_and_unit() {
    let text = render(sample::snapshot()).unwrap();
    let parsed = parse_openmetrics(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
    for (name, labels, expected) in VALUES {
        let family = parsed.families.get(*name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        let sample = family
            .get_sample_by_label_values(&labels.iter().map(ToString::to_string).collect::<Vec<_>>())
            .unwrap_or_else(|| panic!("no {labels:?} in {family:?}"));
        let (value, counts) = match &sample.value {
            OpenMetricsValue::Counter(counter) => (counter.value, true),
            OpenMetricsValue::Gauge(value) => (*value, false),
            other => panic!("{name} is {other:?}"),
        };
        assert_eq!(value.as_f64(), *expected, "{name} {labels:?}");
        assert_eq!(counts, family.family_type == OpenMetricsType::Counter);
        assert_eq!(family.unit.is_empty(), !ends_with_unit(name), "{name} has the unit {:?}", family.unit);
        assert!(!family.help.is_empty(), "{name}");
    }
    let named: std::collections::BTreeSet<&str> = VALUES.iter().map(|(name, ..)| *name).collect();
    let others: Vec<_> = parsed.families.keys().filter(|name| !named.contains(name.as_str())).collect();
    assert_eq!(others, ["portside_agent"], "every family is compared above");
    assert!(text.contains("portside_agent_info{version=\"0.1.0\",node=\"lb1\",abi=\"1\"} 1"), "{text}");
}

fn ends_with_unit(name: &str) -> bool {
    ["packets", "bytes", "flows", "seconds", "slots", "entries"]
        .iter()
        .any(|unit| name.ends_with(&format!("_{unit}")) && name != "portside_target_takes_new_flows")
}

#[test]
fn names_are_escaped() {
    let mut snapshot = sample::snapshot();
    snapshot.services[0].name = "a\"b\\c\nd".to_owned();
    let text = render(snapshot).unwrap();
    let parsed = parse_openmetrics(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
    assert!(text.contains(r#"service="a\"b\\c\nd""#), "{text}");
    assert!(parsed.families.contains_key("portside_service_packets"));
}

#[test]
fn an_agent_without_a_configuration_is_exposed_too() {
    let mut snapshot = sample::snapshot();
    snapshot.services.clear();
    snapshot.targets.clear();
    snapshot.status.revision = None;
    let parsed = parse_openmetrics(&render(snapshot).unwrap()).unwrap();
    let revision = &parsed.families["portside_configuration_revision"];
    let sample = revision.get_sample_by_label_values(&[]).unwrap();
    assert!(matches!(&sample.value, OpenMetricsValue::Gauge(value) if value.as_f64() == 0.0), "{sample:?}");
}
