//! Reading flows, counters and usage; the sweep; the packet log.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lb_common::{
    abi::{Control, Counters, TCP, UDP, handshake_state, map},
    verdict::Verdict,
};
use lb_userspace::dataplane::{
    DataPlane, Write,
    kernel::{FlowCursor, FlowFilter, PacketLogLevel},
};
use tokio_util::sync::CancellationToken;

use crate::setup::{LIMITS, SLOTS, Setup, control};

#[test]
fn flows_are_read_in_pages_and_filtered() -> Result<()> {
    let setup = Setup::new()?;
    let dataplane = setup.start()?;
    for number in 0..600 {
        setup.insert_flow(number, 1 + u32::from(number % 3), 1 + u32::from(number % 5))?;
    }
    assert_eq!(dataplane.flow_counts()?, [600, 0]);

    let mut seen = BTreeSet::new();
    let (mut cursor, mut pages) = (None, 0);
    loop {
        let page = dataplane.flows(&FlowFilter::default(), cursor, 50, 1_000_000)?;
        pages += 1;
        assert!(page.flows.len() <= 66, "{} flows in a page", page.flows.len());
        for flow in page.flows {
            assert!(seen.insert(flow.client), "{:?} twice", flow.client);
        }
        // As the API hands it on.
        cursor = page
            .next
            .map(|next| next.to_string().parse::<FlowCursor>())
            .transpose()
            .map_err(anyhow::Error::msg)?;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 600);
    assert!(pages >= 9, "{pages} pages");

    let count = |filter: &FlowFilter| -> Result<usize> {
        let page = dataplane.flows(filter, None, 10_000, 1_000_000)?;
        assert_eq!(page.next, None);
        Ok(page.flows.len())
    };
    assert_eq!(count(&FlowFilter { service_row: Some(2), ..FlowFilter::default() })?, 200);
    assert_eq!(count(&FlowFilter { target_row: Some(5), ..FlowFilter::default() })?, 120);
    assert_eq!(count(&FlowFilter { client: Some("10.0.1.0/24".parse()?), ..FlowFilter::default() })?, 256);
    assert_eq!(count(&FlowFilter { protocol: Some(17), ..FlowFilter::default() })?, 0);
    assert_eq!(count(&FlowFilter { vip: Some(("10.9.0.1".parse()?, 80)), ..FlowFilter::default() })?, 600);
    assert_eq!(count(&FlowFilter { vip: Some(("10.9.0.1".parse()?, 81)), ..FlowFilter::default() })?, 0);

    // Work is bounded even where nothing matches.
    let nothing = FlowFilter { protocol: Some(17), ..FlowFilter::default() };
    assert!(dataplane.flows(&nothing, None, 100, 64)?.next.is_some());

    let one = FlowFilter { client: Some("10.0.0.7/32".parse()?), ..FlowFilter::default() };
    let flow = dataplane.flows(&one, None, 100, 1_000_000)?.flows.pop().context("the flow of 10.0.0.7")?;
    assert_eq!(flow.client, ("10.0.0.7".parse()?, 40_000));
    assert_eq!(flow.vip, ("10.9.0.1".parse()?, 80));
    assert_eq!(flow.snat, ("10.8.0.1".parse()?, 10_007));
    assert_eq!(flow.target, ("10.7.0.1".parse()?, 8080));
    assert_eq!((flow.from_client, flow.from_target), ((3, 300), (2, 200)));
    assert_eq!((flow.epoch, flow.incarnation, flow.flags), (7, 1, (0, 1)));
    Ok(())
}

#[test]
fn counters_have_a_row_for_everything() -> Result<()> {
    let setup = Setup::new()?;
    let dataplane = setup.start()?;
    let counters = dataplane.counters()?;
    assert_eq!(counters.services.len(), LIMITS.services as usize + 1);
    assert_eq!(counters.targets, vec![Counters::default(); LIMITS.targets as usize + 1]);
    assert_eq!(counters.verdicts.len(), Verdict::COUNT as usize);
    let ifindex = dataplane.attachments()[0].ifindex;
    assert_eq!(counters.transmit_failed, [(ifindex, 0)]);

    let before = counters.verdicts[Verdict::PassNotIp as usize];
    setup.send_arp()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while dataplane.counters()?.verdicts[Verdict::PassNotIp as usize] <= before {
        assert!(Instant::now() < deadline, "the frame was not counted");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn the_packet_log_reaches_the_agents_log() -> Result<()> {
    let setup = Setup::new()?;
    let mut options = setup.options();
    options.packet_log = Some(PacketLogLevel::Trace);
    let dataplane = setup.start_with(options)?;
    let reader = dataplane.packet_log()?;
    setup.send_arp()?;

    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(lines.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let stop = CancellationToken::new();
            let until_seen = async {
                let deadline = Instant::now() + Duration::from_secs(5);
                while !lines.text().contains("verdict not_ip") && Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                stop.cancel();
            };
            tokio::join!(reader.run(stop.clone()), until_seen).0
        })
    })?;
    let text = lines.text();
    assert!(text.contains("portside::packet") && text.contains("verdict not_ip"), "{text}");
    Ok(())
}

/// What was logged.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[test]
fn usage_names_what_can_fill_up() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    setup.insert_flow(1, 1, 1)?;
    dataplane.write(&[
        Write::Table { table: 0, slots: vec![1; SLOTS as usize] },
        Write::Route { prefix: "10.0.0.0/8".parse()?, row: Some(40) },
    ])?;
    let usage = dataplane.usage()?;
    let used =
        |name: &str| usage.iter().find(|usage| usage.name == name).map(|usage| (usage.used, usage.limit));
    assert_eq!(used(map::FLOWS[0]), Some((2, 2 * u64::from(LIMITS.flows) + 1024)));
    assert_eq!(used(map::RING[0]), Some((1, u64::from(LIMITS.flows))));
    assert_eq!(used(map::HANDSHAKES[1]), Some((0, 65_536)));
    assert_eq!(used(map::TABLES), Some((1, 16)));
    assert_eq!(used(map::ROUTES[0]), Some((1, 16)));
    assert!(usage.iter().all(|usage| usage.bytes > 0 || usage.used == 0), "{usage:?}");
    Ok(())
}

#[test]
fn a_handshake_that_has_expired_takes_no_room() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    let timeouts = Control { tcp_handshake: u32::MAX, udp_unanswered: 0, ..control(0) };
    dataplane.write(&[Write::Control(timeouts)])?;
    setup.insert_handshake(3, TCP, handshake_state::SYN_SENT)?;
    setup.insert_handshake(4, UDP, handshake_state::UDP_UNANSWERED)?;
    let usage = dataplane.usage()?;
    let used = usage.iter().find(|usage| usage.name == map::HANDSHAKES[0]).map(|usage| usage.used);
    assert_eq!(used, Some(1));
    Ok(())
}

#[test]
fn a_sweep_goes_once_round_the_rings() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    dataplane.write(&[Write::Control(control(0))])?;
    dataplane.sweep()?;
    Ok(())
}
