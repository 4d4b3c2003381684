//! The whole parser, from text to configuration or faults.

mod accepted;
mod faults;
mod faults_groups;
mod faults_network;
mod schema;
mod state;

/// A small configuration without fault or warning, for tests to change.
const BASE: &str = "\
interfaces: [eth0]
snat: { ipv4: [10.0.0.2], ports: 20000-29999 }
segments: { office: [10.1.0.0/16] }
services:
  - { name: web, address: 10.0.0.100, protocol: tcp, port: 80, allow: [office], group: web }
groups:
  - name: web
    targets:
      - { name: a, address: 10.0.0.11, port: 8080 }
      - { name: b, address: 10.0.0.12, port: 8080 }
    health: { http: { path: /health }, interval: 2s }
";

/// The base with one text replaced, which must occur exactly once.
fn changed(from: &str, to: &str) -> String {
    assert_eq!(BASE.matches(from).count(), 1, "{from:?} must occur once in the base");
    BASE.replace(from, to)
}
