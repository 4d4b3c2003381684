//! What a user reads for each fault of groups, targets, health checks, times and sizes.

use super::faults::holds;

/// Groups and targets.
#[test]
fn groups() {
    holds(&[
        (
            "health: { http: { path: /health }, interval: 2s }",
            "mode: ipip",
            &["p.yaml:11:11: groups[0].mode: there is no `ipip`; it can only be nat"],
        ),
        (
            "address: 10.0.0.11,",
            "address: 127.0.0.1,",
            &[
                "p.yaml:9:29: groups[0].targets[0].address: 127.0.0.1 is a loopback address, which no packet from a network has; give a unicast address of the network",
            ],
        ),
        (
            "[10.0.0.2]",
            "[10.0.0.11]",
            &[
                "p.yaml:9:29: groups[0].targets[0].address: 10.0.0.11 is in the pool `snat`; a target needs an address of its own",
            ],
        ),
        (
            "address: 10.0.0.11,",
            "address: 10.0.0.100,",
            &[
                "p.yaml:9:29: groups[0].targets[0].address: 10.0.0.100 is the address of service `web`; a target needs one of its own",
            ],
        ),
        (
            "- name: web\n",
            "- nme: web\n",
            &[
                "p.yaml:7:5: groups[0]: `name` is missing",
                "p.yaml:7:5: groups[0].nme: there is no such key; did you mean `name`?",
            ],
        ),
        (
            "- name: web\n",
            "- name: web\n    name: web\n",
            &["p.yaml:8:5: groups[0].name: is given twice, first in line 7; remove one"],
        ),
        (
            "- name: web\n",
            "- { name: web, targets: [{ address: 10.0.0.13, port: 80 }] }\n  - name: web\n",
            &["p.yaml:8:11: groups[1].name: the group name `web` is taken already, in line 7"],
        ),
        (
            "- { name: b,",
            "- { name: a,",
            &["p.yaml:10:17: groups[0].targets[1].name: the target name `a` is taken already, in line 9"],
        ),
        (
            "name: b, address: 10.0.0.12",
            "name: b, address: 10.0.0.11",
            &[
                "p.yaml:10:29: groups[0].targets[1].address: the target 10.0.0.11:8080 is taken already, in line 9",
            ],
        ),
        (
            "address: 10.0.0.12",
            "address: 'fd00::12'",
            &[
                "p.yaml:10:29: groups[0].targets[1].address: fd00::12 is an IPv6 address, but the group's first target is IPv4; use a group for each family",
            ],
        ),
        (
            "port: 8080 }\n    health",
            "port: 8080, weight: 1001 }\n    health",
            &["p.yaml:10:60: groups[0].targets[1].weight: 1001 is out of range; give 0 to 1000"],
        ),
        (
            "port: 8080 }\n    health",
            "port: 8080, zone: 1 }\n    health",
            &["p.yaml:10:58: groups[0].targets[1].zone: 1 is a number; put it in quotes to make it text"],
        ),
        (
            "      - { name: a, address: 10.0.0.11, port: 8080 }\n      - { name: b, address: 10.0.0.12, port: 8080 }\n",
            "      - { address: 10.0.0.11, port: 8080, weight: 0 }\n",
            &[
                "p.yaml:9:7: groups[0].targets: every target has weight 0; give at least one of them a weight from 1 to 1000",
            ],
        ),
        (
            "\n      - { name: a, address: 10.0.0.11, port: 8080 }\n      - { name: b, address: 10.0.0.12, port: 8080 }\n",
            " []\n",
            &["p.yaml:8:14: groups[0].targets: has no target; give at least one"],
        ),
        (
            "interval: 2s }",
            "interval: 2s }\n    table_slots: 16380",
            &["p.yaml:12:18: groups[0].table_slots: 16380 is no prime number; near it are 16369 and 16381"],
        ),
        (
            "interval: 2s }",
            "interval: 2s }\n    table_slots: 131071000",
            &["p.yaml:12:18: groups[0].table_slots: 131071000 is out of range; give 2 to 131071"],
        ),
        (
            "interval: 2s }",
            "interval: 2s }\n    table_slots: 131070",
            &[
                "p.yaml:12:18: groups[0].table_slots: 131070 is no prime number; near it are 131063 and 131071",
            ],
        ),
        (
            "- name: web\n    targets:\n",
            "- name: web\n    table_slots: 2\n    targets:\n      - { address: 10.0.0.13, port: 80 }\n",
            &[
                "p.yaml:8:18: groups[0].table_slots: 3 targets do not fit a table of 2 slots; give a prime of at least a hundred times the targets",
            ],
        ),
        (
            "interval: 2s }",
            "interval: 2s }\n    drain_deadline: 0s",
            &["p.yaml:12:21: groups[0].drain_deadline: 0s is out of range; give 1s to 720h"],
        ),
        (
            "interval: 2s }",
            "interval: 2s }\n    on_all_down: open-all",
            &["p.yaml:12:18: groups[0].on_all_down: there is no `open-all`; give one of reject, drop, open"],
        ),
        (
            "interval: 2s }",
            "interval: 2s }\n    on_target_down: { tcp: reset, udp: ends }",
            &[
                "p.yaml:12:28: groups[0].on_target_down.tcp: there is no `reset`; give one of keep, end",
                "p.yaml:12:40: groups[0].on_target_down.udp: there is no `ends`; give one of keep, end; did you mean `end`?",
            ],
        ),
        (
            "[eth0]",
            "[eth0]\nlimits: { targets: 1 }",
            &["p.yaml:8:3: groups: 2 targets are more than `limits.targets`, 1; raise it"],
        ),
    ]);
}

/// Health checks.
#[test]
fn health() {
    holds(&[
        (
            "http: { path: /health }, ",
            "",
            &["p.yaml:11:13: groups[0].health: has none of `tcp`, `http` and `https`; give exactly one"],
        ),
        (
            "http: { path: /health }",
            "http: {}, tcp: {}",
            &[
                "p.yaml:11:13: groups[0].health: has more than one of `tcp`, `http` and `https`; give exactly one",
            ],
        ),
        (
            "http: { path: /health }",
            "http: {}, tls: {}",
            &[
                "p.yaml:11:30: groups[0].health.tls: only `https` checks have it; remove it, or check with `https`",
            ],
        ),
        (
            "http: { path: /health }",
            "tcp: { port: 7 }",
            &["p.yaml:11:22: groups[0].health.tcp.port: there is no such key; there is nothing to set here"],
        ),
        (
            "http: { path: /health }",
            "https: {}, tls: { ca_file: ca.pem, verify: all, server_name: -a }",
            &[
                "p.yaml:11:42: groups[0].health.tls.ca_file: `ca.pem` is no absolute path; give one such as /etc/portside/ca.pem",
                "p.yaml:11:58: groups[0].health.tls.verify: there is no `all`; give one of system, none",
                "p.yaml:11:76: groups[0].health.tls.server_name: `-a` is no DNS name and no address",
            ],
        ),
        (
            "http: { path: /health }",
            "https: {}, tls: { ca_file: /ca.pem, verify: none, server_name: a }",
            &["p.yaml:11:59: groups[0].health.tls.verify: excludes `ca_file`; remove one of them"],
        ),
        (
            "interval: 2s",
            "interval: 2",
            &[
                "p.yaml:11:50: groups[0].health.interval: 2 has no unit; give a length of time such as 500ms, 2s, 5m or 1h30m",
            ],
        ),
        (
            "interval: 2s",
            "interval: 2 days",
            &[
                "p.yaml:11:50: groups[0].health.interval: `2 days` is no length of time; give one such as 500ms, 2s, 5m or 1h30m",
            ],
        ),
        (
            "interval: 2s",
            "interval: 1ms",
            &["p.yaml:11:50: groups[0].health.interval: 1ms is out of range; give 10ms to 1h"],
        ),
        (
            "interval: 2s",
            "interval: 2h",
            &["p.yaml:11:50: groups[0].health.interval: 2h is out of range; give 10ms to 1h"],
        ),
        (
            "interval: 2s",
            "interval: 2s, timeout: 3s, transition_interval: 1m",
            &[
                "p.yaml:11:63: groups[0].health.timeout: 3s is longer than the interval, 2s; give at most that",
                "p.yaml:11:88: groups[0].health.transition_interval: 60s is longer than the interval, 2s; give at most that",
            ],
        ),
        (
            "interval: 2s",
            "interval: 2s, timeout: 0s, transition_interval: -1s",
            &[
                "p.yaml:11:63: groups[0].health.timeout: 0s is out of range; give 10ms to 1h",
                "p.yaml:11:88: groups[0].health.transition_interval: `-1s` is no length of time; give one such as 500ms, 2s, 5m or 1h30m",
            ],
        ),
        (
            "interval: 2s",
            "interval: 2s, rise: 0, fall: 101, port: 0",
            &[
                "p.yaml:11:60: groups[0].health.rise: 0 is out of range; give 1 to 100",
                "p.yaml:11:69: groups[0].health.fall: 101 is out of range; give 1 to 100",
                "p.yaml:11:80: groups[0].health.port: 0 is no port; give 1 to 65535",
            ],
        ),
        (
            "path: /health",
            "path: health",
            &[
                "p.yaml:11:29: groups[0].health.http.path: `health` is no request's path; give a slash and then visible ASCII characters without `#`",
            ],
        ),
        (
            "path: /health",
            "method: G T",
            &["p.yaml:11:31: groups[0].health.http.method: `G T` is no request method; give one such as GET"],
        ),
        (
            "path: /health",
            "method: CONNECT",
            &[
                "p.yaml:11:31: groups[0].health.http.method: CONNECT asks for a tunnel, not for an answer; give GET or HEAD",
            ],
        ),
        (
            "path: /health",
            "host: 'http://a'",
            &[
                "p.yaml:11:29: groups[0].health.http.host: `http://a` is no host; give one such as www.example.com or 10.0.0.1:8080",
            ],
        ),
        (
            "path: /health",
            "headers: { 'X A': b, X-B: 'ä', X-C: c, x-c: d, Host: a, Content-Length: '0' }",
            &[
                "p.yaml:11:34: groups[0].health.http.headers.X A: `X A` is no header's name; give one such as X-Probe",
                "p.yaml:11:49: groups[0].health.http.headers.X-B: `ä` is no header's value; give visible ASCII characters, spaces only between them",
                "p.yaml:11:62: groups[0].health.http.headers.x-c: the header `x-c` is taken already, in line 11",
                "p.yaml:11:70: groups[0].health.http.headers.Host: the check writes this header itself: the key `host` sets it; remove it",
                "p.yaml:11:79: groups[0].health.http.headers.Content-Length: the check writes this header itself: a check's request has no body; remove it",
            ],
        ),
        (
            "path: /health",
            "expect_status: []",
            &[
                "p.yaml:11:38: groups[0].health.http.expect_status: lists no status, so that no answer would be healthy; give one such as 200-299",
            ],
        ),
        (
            "path: /health",
            "expect_status: [99, 600, 200-99, 299-200, 2xx, 200-299-300, -1]",
            &[
                "p.yaml:11:39: groups[0].health.http.expect_status[0]: is out of range; status codes are 100 to 599",
                "p.yaml:11:43: groups[0].health.http.expect_status[1]: is out of range; status codes are 100 to 599",
                "p.yaml:11:48: groups[0].health.http.expect_status[2]: is out of range; status codes are 100 to 599",
                "p.yaml:11:56: groups[0].health.http.expect_status[3]: 299-200 runs backwards; did you mean 200-299?",
                "p.yaml:11:65: groups[0].health.http.expect_status[4]: `2xx` is no status code or range of them; give one such as 204 or 200-299",
                "p.yaml:11:70: groups[0].health.http.expect_status[5]: `200-299-300` is no status code or range of them; give one such as 204 or 200-299",
                "p.yaml:11:83: groups[0].health.http.expect_status[6]: is out of range; status codes are 100 to 599",
            ],
        ),
        (
            "path: /health",
            "expect_body: '(a'",
            &["p.yaml:11:36: groups[0].health.http.expect_body: `(a` cannot be compiled: unclosed group"],
        ),
        (
            "path: /health",
            "expect_body: 'a{1000}{1000}'",
            &[
                "p.yaml:11:36: groups[0].health.http.expect_body: `a{1000}{1000}` cannot be compiled: Compiled regex exceeds size limit of 1048576 bytes",
            ],
        ),
        (
            "path: /health",
            "expect_body: ''",
            &[
                "p.yaml:11:36: groups[0].health.http.expect_body: `` is no regular expression; give one of 1 to 1024 characters",
            ],
        ),
    ]);
}

/// Idle times, sizes, the API.
#[test]
fn sizes_and_times() {
    holds(&[
        (
            "[eth0]",
            "[eth0]\ntimeouts: { tcp_handshake: 0s, tcp_established: 31h, tcp_closing: 721h, tcp_time_wait: 1, udp_unanswered: a, udp_established: [] }",
            &[
                "p.yaml:2:28: timeouts.tcp_handshake: 0s is out of range; give 100ms to 720h",
                "p.yaml:2:67: timeouts.tcp_closing: 721h is out of range; give 100ms to 720h",
                "p.yaml:2:88: timeouts.tcp_time_wait: 1 has no unit; give a length of time such as 500ms, 2s, 5m or 1h30m",
                "p.yaml:2:107: timeouts.udp_unanswered: `a` is no length of time; give one such as 500ms, 2s, 5m or 1h30m",
                "p.yaml:2:127: timeouts.udp_established: is a list and no length of time; give one such as 500ms, 2s, 5m or 1h30m",
            ],
        ),
        (
            "[eth0]",
            "[eth0]\nlimits: { flows: 1, services: 0, targets: 100000, groups: -1, access_prefixes: 1e9, client_routes: many }",
            &[
                "p.yaml:2:18: limits.flows: 1 is out of range; give 1024 to 16777216",
                "p.yaml:2:31: limits.services: 0 is out of range; give 1 to 65536",
                "p.yaml:2:43: limits.targets: 100000 is out of range; give 1 to 65536",
                "p.yaml:2:59: limits.groups: -1 is out of range; give 1 to 4096",
                "p.yaml:2:80: limits.access_prefixes: 1000000000 is no whole number; give one from 1 to 1048576",
                "p.yaml:2:100: limits.client_routes: `many` is no whole number; give one from 1 to 1048576",
            ],
        ),
        (
            "[10.1.0.0/16] }",
            "[10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16] }\nlimits: { access_prefixes: 2 }",
            &[
                "p.yaml:6:5: services[0]: with this service, access takes more than 2 IPv4 prefixes; raise `limits.access_prefixes`, or list fewer",
            ],
        ),
        (
            "[eth0]",
            "[eth0]\napi: { listen: 10.0.0.1:80 }",
            &[
                "p.yaml:2:16: api.listen: 10.0.0.1 is no loopback address; TCP clients are not authenticated: give 127.0.0.1 or [::1]",
            ],
        ),
        (
            "[eth0]",
            "[eth0]\napi: { listen: 127.0.0.1:0 }",
            &["p.yaml:2:16: api.listen: 0 is no port; give 1 to 65535"],
        ),
        (
            "[eth0]",
            "[eth0]\napi: { listen: localhost:80 }",
            &[
                "p.yaml:2:16: api.listen: `localhost:80` is no address and port; give them like 127.0.0.1:9100",
            ],
        ),
    ]);
}
