//! What a user reads for each fault of interfaces, segments, services and source addresses.

use super::faults::holds;

/// Interfaces, segments, modes, and keys that are missing, unknown or twice.
#[test]
fn shape() {
    holds(&[
        (
            "interfaces: [eth0]",
            "interface: [eth0]",
            &[
                "p.yaml:1:1: `interfaces` is missing",
                "p.yaml:1:1: interface: there is no such key; did you mean `interfaces`?",
            ],
        ),
        ("[eth0]", "eth0", &["p.yaml:1:13: interfaces: is text; give a list"]),
        ("[eth0]", "[]", &["p.yaml:1:13: interfaces: names no interface; give at least one"]),
        ("[eth0]", "", &["p.yaml:1:11: interfaces: has no value; give one, or leave the key out"]),
        (
            "[eth0]",
            "[eth0, eth1, eth0]",
            &["p.yaml:1:26: interfaces[2]: the interface `eth0` is taken already, in line 1"],
        ),
        ("[eth0]", "['..']", &["p.yaml:1:14: interfaces[0]: `..` can be no interface's name"]),
        (
            "[eth0]",
            "[an interface]",
            &[
                "p.yaml:1:14: interfaces[0]: `an interface` is no interface's name; give 1 to 15 visible ASCII characters without `/` and `:`",
            ],
        ),
        (
            "[eth0]",
            "[eth0]\nxdp: offload",
            &["p.yaml:2:6: xdp: there is no `offload`; give one of native, native-or-generic, generic"],
        ),
        (
            "[eth0]",
            "[eth0]\nvips: route",
            &["p.yaml:2:7: vips: there is no `route`; give one of interface, routed; did you mean `routed`?"],
        ),
        (
            "{ office: [10.1.0.0/16] }",
            "{ office: [10.1.0.0/16], office: [10.2.0.0/16] }",
            &["p.yaml:3:36: segments.office: is given twice, first in line 3; remove one"],
        ),
        (
            "{ office: [10.1.0.0/16] }",
            "{ office: [10.1.0.0/16], 7: [] }",
            &["p.yaml:3:36: segments: has a number for a key; keys are text: put it in quotes"],
        ),
        (
            "{ office: [10.1.0.0/16] }",
            "{ office: [10.1.0.0/16], any: [10.2.0.0/16] }",
            &["p.yaml:3:36: segments.any: `any` means everybody and can be no segment's name"],
        ),
        (
            "{ office: [10.1.0.0/16] }",
            "{ office: 10.1.0.0/16 }",
            &["p.yaml:3:21: segments.office: is text; give a list"],
        ),
        (
            "{ office: [10.1.0.0/16] }",
            "{ office: [10.1.0.0/16, 10.1.0.0/16] }",
            &["p.yaml:3:35: segments.office[1]: the prefix 10.1.0.0/16 is taken already, in line 3"],
        ),
        (
            "{ office: [10.1.0.0/16] }",
            "{ office: [10.1.0.0/16], 7th: [10.2.0.0/16] }",
            &[
                "p.yaml:3:36: segments.7th: `7th` is no segment's name; give 1 to 63 letters, digits, `.`, `_` or `-`, the first a letter",
            ],
        ),
    ]);
}

/// Services and who may connect.
#[test]
fn services() {
    holds(&[
        (
            "name: web, address",
            "nothing: web, address",
            &[
                "p.yaml:5:5: services[0]: `name` is missing",
                "p.yaml:5:7: services[0].nothing: there is no such key; known are name, address, protocol, port, allow, deny, group",
            ],
        ),
        ("port: 80,", "port: 70000,", &["p.yaml:5:60: services[0].port: 70000 is no port; give 1 to 65535"]),
        ("port: 80,", "port: 0,", &["p.yaml:5:60: services[0].port: 0 is no port; give 1 to 65535"]),
        (
            "port: 80,",
            "port: '80',",
            &["p.yaml:5:60: services[0].port: `80` is text; give a number without quotes, from 1 to 65535"],
        ),
        (
            "port: 80,",
            "port: http,",
            &["p.yaml:5:60: services[0].port: `http` is no whole number; give one from 1 to 65535"],
        ),
        (
            "port: 80,",
            "port: 80.5,",
            &["p.yaml:5:60: services[0].port: 80.5 is no whole number; give one from 1 to 65535"],
        ),
        (
            "port: 80,",
            "port: [80],",
            &["p.yaml:5:60: services[0].port: is a list; give a whole number from 1 to 65535"],
        ),
        (
            "name: web, address",
            "name: 7, address",
            &["p.yaml:5:13: services[0].name: 7 is a number; put it in quotes to make it text"],
        ),
        (
            "name: web, address",
            "name: 1.5, address",
            &["p.yaml:5:13: services[0].name: 1.5 is a number; put it in quotes to make it text"],
        ),
        (
            "name: web, address",
            "name: true, address",
            &["p.yaml:5:13: services[0].name: true is a truth value; put it in quotes to make it text"],
        ),
        (
            "name: web, address",
            "name: [a], address",
            &[
                "p.yaml:5:13: services[0].name: is a list and no name; give 1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or digit",
            ],
        ),
        (
            "name: web, address",
            "name: a b, address",
            &[
                "p.yaml:5:13: services[0].name: `a b` is no name; give 1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or digit",
            ],
        ),
        (
            "address: 10.0.0.100",
            "address: 10.0.0",
            &[
                "p.yaml:5:27: services[0].address: `10.0.0` is no address; give one such as 10.0.0.1 or fd00::1",
            ],
        ),
        (
            "address: 10.0.0.100",
            "address: 0.0.0.0",
            &[
                "p.yaml:5:27: services[0].address: 0.0.0.0 is the unspecified address; give a unicast address of the network",
            ],
        ),
        (
            "address: 10.0.0.100",
            "address: 224.0.0.1",
            &[
                "p.yaml:5:27: services[0].address: 224.0.0.1 is a multicast address; give a unicast address of the network",
            ],
        ),
        (
            "address: 10.0.0.100",
            "address: 127.0.0.1",
            &[
                "p.yaml:5:27: services[0].address: 127.0.0.1 is a loopback address, which no packet from a network has; give a unicast address of the network",
            ],
        ),
        (
            "address: 10.0.0.100",
            "address: 255.255.255.255",
            &[
                "p.yaml:5:27: services[0].address: 255.255.255.255 is the broadcast address; give a unicast address of the network",
            ],
        ),
        (
            "address: 10.0.0.100",
            "address: 0.1.2.3",
            &[
                "p.yaml:5:27: services[0].address: 0.1.2.3 is in 0.0.0.0/8, which no host has; give a unicast address of the network",
            ],
        ),
        (
            "ipv4: [10.0.0.2], ",
            "",
            &[
                "p.yaml:5:27: services[0].address: an IPv4 service of a `nat` group needs IPv4 source addresses; give at least one in `snat.ipv4`",
            ],
        ),
        (
            "snat: { ipv4: [10.0.0.2], ports: 20000-29999 }",
            "",
            &[
                "p.yaml:5:27: services[0].address: an IPv4 service of a `nat` group needs IPv4 source addresses; give at least one in `snat.ipv4`",
            ],
        ),
        (
            "protocol: tcp",
            "protocol: TCP",
            &[
                "p.yaml:5:49: services[0].protocol: there is no `TCP`; give one of tcp, udp; did you mean `tcp`?",
            ],
        ),
        (
            "protocol: tcp",
            "protocol: sctp",
            &["p.yaml:5:49: services[0].protocol: there is no `sctp`; give one of tcp, udp"],
        ),
        (
            "protocol: tcp",
            "protocol: 6",
            &["p.yaml:5:49: services[0].protocol: is a number; give one of tcp, udp"],
        ),
        (
            "group: web }",
            "group: wbe }",
            &["p.yaml:5:88: services[0].group: no group is named `wbe`; did you mean `web`?"],
        ),
        (
            "group: web }",
            "group: nothing }",
            &["p.yaml:5:88: services[0].group: no group is named `nothing`"],
        ),
        (
            "group: web }",
            "group: web }\n  - { name: web, address: 10.0.0.101, protocol: tcp, port: 80, allow: any, group: web }",
            &["p.yaml:6:13: services[1].name: the service name `web` is taken already, in line 5"],
        ),
        (
            "group: web }",
            "group: web }\n  - { name: w, address: 10.0.0.100, protocol: tcp, port: 80, allow: any, group: web }",
            &["p.yaml:6:58: services[1].port: TCP port 80 of 10.0.0.100 is taken already, in line 5"],
        ),
        (
            "group: web }",
            "group: web }\n  - { name: w, address: 'fd00::100', protocol: tcp, port: 80, allow: any, group: web }",
            &[
                "p.yaml:6:25: services[1].address: an IPv6 service of a `nat` group needs IPv6 source addresses; give at least one in `snat.ipv6`",
                "p.yaml:6:82: services[1].group: the targets of `web` are IPv4, but the service's address is IPv6",
            ],
        ),
        (
            "[office]",
            "[offic]",
            &["p.yaml:5:72: services[0].allow[0]: no segment is named `offic`; did you mean `office`?"],
        ),
        (
            "[office]",
            "office",
            &[
                "p.yaml:5:71: services[0].allow: is text; give a list of segments and prefixes, or the word any",
            ],
        ),
        ("[office]", "[any]", &["p.yaml:5:72: services[0].allow[0]: `any` stands alone: write `allow: any`"]),
        (
            "[office]",
            "[office], deny: [any]",
            &[
                "p.yaml:5:88: services[0].deny[0]: `any` cannot be denied: who is not allowed is denied already",
            ],
        ),
        (
            "[office]",
            "[office], deny: [10.1.0.0/16]",
            &[
                "p.yaml:5:88: services[0].deny[0]: 10.1.0.0/16 is allowed too, by `services[0].allow[0]`; remove one",
            ],
        ),
        (
            "[office]",
            "[10.2.0.0/16], deny: [10.2.0.0/16]",
            &[
                "p.yaml:5:93: services[0].deny[0]: 10.2.0.0/16 is allowed too, by `services[0].allow[0]`; remove one",
            ],
        ),
        (
            "[office]",
            "[10.1.0.0/16], deny: [office]",
            &[
                "p.yaml:5:93: services[0].deny[0]: 10.1.0.0/16 (in the segment `office`) is allowed too, by `services[0].allow[0]`; remove one",
            ],
        ),
        (
            "[office]",
            "[fd00::/64]",
            &[
                "p.yaml:5:72: services[0].allow[0]: fd00::/64 is an IPv6 prefix, but the service's address is IPv4; give an IPv4 prefix",
            ],
        ),
        (
            "[office]",
            "[10.1.0.1/16]",
            &[
                "p.yaml:5:72: services[0].allow[0]: `10.1.0.1/16` has bits beyond its length; did you mean 10.1.0.0/16?",
            ],
        ),
        (
            "[office]",
            "[10.1.0.0/33]",
            &[
                "p.yaml:5:72: services[0].allow[0]: `10.1.0.0/33` is no prefix; give one such as 10.1.0.0/16 or fd00:1::/64",
            ],
        ),
        (
            "[office]",
            "[a b]",
            &[
                "p.yaml:5:72: services[0].allow[0]: `a b` is no segment or prefix; give one such as office or 10.1.0.0/16",
            ],
        ),
        (
            "[office]",
            "[[]]",
            &[
                "p.yaml:5:72: services[0].allow[0]: is a list and no segment or prefix; give one such as office or 10.1.0.0/16",
            ],
        ),
        (
            "[office]",
            "7",
            &[
                "p.yaml:5:71: services[0].allow: is a number; give a list of segments and prefixes, or the word any",
            ],
        ),
    ]);
}

/// The pool of source addresses.
#[test]
fn source_addresses() {
    holds(&[
        (
            "[10.0.0.2]",
            "[127.0.0.1]",
            &[
                "p.yaml:2:16: snat.ipv4[0]: 127.0.0.1 is a loopback address, which no packet from a network has; give a unicast address of the network",
            ],
        ),
        (
            "[10.0.0.2]",
            "[10.0.0.2, 10.0.0.2]",
            &["p.yaml:2:26: snat.ipv4[1]: the source address 10.0.0.2 is taken already, in line 2"],
        ),
        (
            "[10.0.0.2]",
            "[fd00::2]",
            &["p.yaml:2:16: snat.ipv4[0]: `fd00::2` is no IPv4 address; give one such as 10.0.0.1"],
        ),
        (
            "[10.0.0.2]",
            "[10.0.0.100]",
            &[
                "p.yaml:2:16: snat.ipv4[0]: 10.0.0.100 is the address of service `web`; source addresses must be others",
            ],
        ),
        (
            "20000-29999",
            "20000",
            &["p.yaml:2:34: snat.ports: 20000 is no range of ports; give one such as 20000-29999"],
        ),
        (
            "20000-29999",
            "a-b",
            &["p.yaml:2:34: snat.ports: `a-b` is no range of ports; give one such as 20000-29999"],
        ),
        (
            "20000-29999",
            "20000-99999",
            &["p.yaml:2:34: snat.ports: 20000-99999 is out of range; ports are 1 to 65535"],
        ),
        ("20000-29999", "0-99", &["p.yaml:2:34: snat.ports: 0-99 is out of range; ports are 1 to 65535"]),
        (
            "20000-29999",
            "29999-20000",
            &["p.yaml:2:34: snat.ports: 29999-20000 runs backwards; did you mean 20000-29999?"],
        ),
    ]);
}
