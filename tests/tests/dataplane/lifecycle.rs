//! Loading, adopting, replacing and unloading.

use std::{borrow::Cow, fs};

use anyhow::Result;
use lb_common::abi::{Control, map};
use lb_tests::xdp_pass;
use lb_userspace::{
    config::model::{Limits, XdpMode},
    dataplane::{
        DataPlane, Write,
        kernel::{Adopted, AttachMode, FlowFilter, KernelDataPlane, PacketLogLevel, unload},
    },
};

use crate::setup::{INTERFACE, LIMITS, SLOTS, Setup, control, names, other_object};

const ALL_ADOPTED: Adopted = Adopted { flows: true, policy: true, program: true };

#[test]
fn a_restart_adopts_everything() -> Result<()> {
    let setup = Setup::new()?;
    let mut first = setup.start()?;
    assert_eq!(first.adopted(), Adopted::default());
    assert!(first.warnings().is_empty(), "{:?}", first.warnings());
    let attachment = first.attachments()[0].clone();
    assert_eq!((attachment.interface.as_str(), attachment.mode), (INTERFACE, AttachMode::Native));
    assert!(!attachment.adopted);
    assert!(setup.link()?.contains(&format!("prog/xdp id {}", attachment.program_id)), "{}", setup.link()?);
    first.write(&[Write::Control(control(1)), Write::Table { table: 3, slots: vec![5; SLOTS as usize] }])?;
    let ids = (setup.map_id(map::FLOWS[0])?, setup.map_id(map::CONTROL)?);
    drop(first);
    assert!(setup.link()?.contains(&format!("prog/xdp id {}", attachment.program_id)), "still attached");

    let mut second = setup.start()?;
    assert_eq!(second.adopted(), ALL_ADOPTED);
    let adopted = second.attachments()[0].clone();
    assert_eq!(adopted.program_id, attachment.program_id);
    assert!(adopted.adopted);
    assert_eq!(second.control()?, control(1));
    assert_eq!(second.table(3)?, vec![5; SLOTS as usize]);
    assert_eq!(ids, (setup.map_id(map::FLOWS[0])?, setup.map_id(map::CONTROL)?));
    // In place, in a table that the first one made.
    second.write(&[Write::TableSlots { table: 3, slots: vec![(250, 9)] }])?;
    assert_eq!(second.table(3)?[249..], [5, 9]);
    Ok(())
}

#[test]
fn another_program_takes_over_and_flows_stay() -> Result<()> {
    let setup = Setup::new()?;
    let mut first = setup.start()?;
    first.write(&[Write::Control(control(0))])?;
    setup.insert_flow(1, 2, 3)?;
    let before = first.attachments()[0].clone();
    let flows = setup.map_id(map::FLOWS[0])?;
    drop(first);

    let mut options = setup.options();
    options.object = Cow::Owned(other_object()?);
    let second = setup.start_with(options)?;
    let after = second.attachments()[0].clone();
    assert_eq!(second.adopted(), Adopted { flows: true, policy: true, program: false });
    assert!(after.adopted, "the link stayed");
    assert_ne!(after.program_tag, before.program_tag);
    assert!(setup.link()?.contains(&format!("prog/xdp id {}", after.program_id)), "{}", setup.link()?);
    assert_eq!(setup.map_id(map::FLOWS[0])?, flows);
    let page = second.flows(&FlowFilter::default(), None, 100, 10_000)?;
    assert_eq!(page.flows.len(), 1);
    assert_eq!((page.flows[0].service_row, page.flows[0].target_row), (2, 3));
    assert_eq!(second.control()?, control(0));
    assert_eq!(names(&setup.pins.join("programs"))?.len(), 1, "the replaced version is gone");
    Ok(())
}

#[test]
fn the_packet_logs_level_replaces_the_program_and_nothing_else() -> Result<()> {
    let setup = Setup::new()?;
    let first = setup.start()?;
    setup.insert_flow(1, 2, 3)?;
    let before = first.attachments()[0].program_id;
    drop(first);
    let mut options = setup.options();
    options.packet_log = Some(PacketLogLevel::Debug);
    let second = setup.start_with(options)?;
    assert_ne!(second.attachments()[0].program_id, before);
    assert_eq!(second.adopted(), Adopted { flows: true, policy: true, program: false });
    assert_eq!(second.flow_counts()?, [1, 0]);
    assert!(names(&setup.pins.join("programs"))?[0].ends_with("_debug"));
    Ok(())
}

#[test]
fn policy_maps_that_do_not_fit_are_made_anew_beside_the_flows() -> Result<()> {
    let setup = Setup::new()?;
    let mut first = setup.start()?;
    first.write(&[Write::Control(control(0))])?;
    setup.insert_flow(1, 2, 3)?;
    let before = first.attachments()[0].clone();
    let (flows, policy) = (setup.map_id(map::FLOWS[0])?, setup.map_id(map::CONTROL)?);
    drop(first);
    fs::remove_file(setup.pins.join("maps").join(map::FILTER))?;

    let mut second = setup.inside(|| Ok(KernelDataPlane::open(setup.options())?))?;
    assert_eq!(second.adopted(), Adopted { flows: true, policy: false, program: false });
    // Until the switch the old program and the old maps are in force.
    assert!(setup.link()?.contains(&format!("prog/xdp id {}", before.program_id)), "{}", setup.link()?);
    assert_eq!(setup.map_id(map::CONTROL)?, policy);
    second.write(&[Write::Control(control(1))])?;
    // As if the agent ended right after the switch of the links.
    setup.inside(|| Ok(second.ensure_attached().map(|_| ())?))?;
    drop(second);

    let third = setup.start()?;
    assert_eq!(third.adopted(), ALL_ADOPTED);
    assert_eq!(third.control()?, control(1));
    assert_ne!(third.attachments()[0].program_id, before.program_id);
    assert_eq!(setup.map_id(map::FLOWS[0])?, flows);
    assert_ne!(setup.map_id(map::CONTROL)?, policy);
    assert_eq!(third.flow_counts()?, [1, 0]);
    assert_eq!(names(&setup.pins.join("next"))?, [""; 0]);
    Ok(())
}

#[test]
fn maps_that_never_came_into_force_are_discarded() -> Result<()> {
    let setup = Setup::new()?;
    drop(setup.start()?);
    let policy = setup.map_id(map::CONTROL)?;
    fs::remove_file(setup.pins.join("maps").join(map::FILTER))?;
    drop(setup.inside(|| Ok(KernelDataPlane::open(setup.options())?))?);
    assert_ne!(names(&setup.pins.join("next"))?, [""; 0]);
    let third = setup.start()?;
    assert!(!third.adopted().policy);
    assert_ne!(setup.map_id(map::CONTROL)?, policy);
    assert_eq!(names(&setup.pins.join("programs"))?.len(), 1);
    Ok(())
}

#[test]
fn a_new_version_of_the_layouts_keeps_what_it_can() -> Result<()> {
    let setup = Setup::new()?;
    let mut first = setup.start()?;
    first.write(&[Write::Control(control(0))])?;
    setup.insert_flow(1, 2, 3)?;
    let counters = setup.map_id(map::VERDICTS)?;
    drop(first);

    // As an earlier agent with another version of all layouts but the flows' would have left it.
    setup.set_meta(0, 0)?;
    let second = setup.start()?;
    assert_eq!(second.adopted(), Adopted { flows: true, policy: false, program: false });
    assert_eq!((second.flow_counts()?, second.control()?), ([1, 0], Control::default()));
    assert_eq!(setup.map_id(map::VERDICTS)?, counters);
    assert!(second.warnings().is_empty(), "{:?}", second.warnings());
    drop(second);

    // And of the flows' too.
    setup.set_meta(1, 0)?;
    let third = setup.start()?;
    assert_eq!(third.adopted(), Adopted::default());
    assert!(third.attachments()[0].adopted, "the link stays even so");
    assert_eq!(third.flow_counts()?, [0, 0]);
    assert_eq!(third.warnings(), ["the layout of flows changed from version 0 to 1: established flows end"]);
    Ok(())
}

#[test]
fn sizes_stay_while_the_maps_live() -> Result<()> {
    let setup = Setup::new()?;
    drop(setup.start()?);
    let mut options = setup.options();
    options.limits = Limits { flows: 1000, targets: 64, access_prefixes: 999, ..LIMITS };
    options.table_slots = 509;
    let second = setup.start_with(options)?;
    assert_eq!(second.adopted(), ALL_ADOPTED);
    assert_eq!(
        second.warnings(),
        [
            "limits.flows is 1000, the tables in force hold 4096; takes effect after `lbd unload`",
            "limits.targets is 64, the tables in force hold 32; takes effect after `lbd unload`",
            "table_slots is 509, the tables in force hold 251; takes effect after `lbd unload`",
        ]
    );
    assert_eq!(second.limits(), Limits { access_prefixes: 999, ..LIMITS });
    assert_eq!(second.table_slots(), SLOTS);
    drop(second);
    unload(&setup.pins)?;
    let mut options = setup.options();
    options.limits.flows = 1000;
    let third = setup.start_with(options)?;
    assert_eq!((third.limits().flows, third.warnings().len()), (1000, 0));
    Ok(())
}

#[test]
fn an_interface_that_was_made_anew_is_attached_again() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    let before = dataplane.attachments()[0].clone();
    setup.ns.ip_batch("link del left\nlink add left type veth peer name right\nlink set left up\n")?;
    let after = setup.inside(|| Ok(dataplane.ensure_attached()?[0].clone()))?;
    assert_ne!(after.ifindex, before.ifindex);
    assert!(!after.adopted);
    assert!(setup.link()?.contains(&format!("prog/xdp id {}", after.program_id)), "{}", setup.link()?);
    Ok(())
}

#[test]
fn an_interface_that_is_no_longer_configured_loses_the_program() -> Result<()> {
    let setup = Setup::new()?;
    let mut options = setup.options();
    options.interfaces.push("right".to_owned());
    let both = setup.start_with(options)?;
    assert_eq!(both.attachments().len(), 2);
    drop(both);
    let mut options = setup.options();
    options.interfaces = vec!["right".to_owned()];
    let one = setup.start_with(options)?;
    assert!(one.attachments()[0].adopted);
    assert!(!setup.link()?.contains("xdp"), "{}", setup.link()?);
    Ok(())
}

#[test]
fn what_a_failed_attach_left_is_dropped_by_the_first_that_succeeds() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    xdp_pass::attach(&setup.ns, "right")?;
    dataplane.set_interfaces(&["right".to_owned()], XdpMode::Native);
    let error = setup.inside(|| Ok(dataplane.attach().map(drop).unwrap_err().to_string()))?;
    assert!(error.contains("interface right already carries an XDP program"), "{error}");
    assert!(setup.link()?.contains("prog/xdp"), "until then the other one keeps it: {}", setup.link()?);
    setup.ns.exec("ip", &["link", "set", "dev", "right", "xdpdrv", "off"])?;
    setup.inside(|| Ok(dataplane.attach().map(drop)?))?;
    assert!(!setup.link()?.contains("xdp"), "{}", setup.link()?);
    assert_eq!(names(&setup.pins.join("links"))?, ["right"]);
    Ok(())
}

#[test]
fn an_interface_without_driver_support_falls_back_only_if_permitted() -> Result<()> {
    let setup = Setup::new()?;
    setup.ns.ip_batch("link add refuses type bridge\nlink set refuses up\n")?;
    let mut options = setup.options();
    options.interfaces = vec!["refuses".to_owned()];
    let error = setup.start_with(options.clone()).map(drop).unwrap_err().to_string();
    assert!(error.contains("interface refuses does not take the program in native mode"), "{error}");
    assert!(error.contains("xdp: native-or-generic"), "{error}");

    options.xdp_mode = XdpMode::NativeOrGeneric;
    let dataplane = setup.start_with(options.clone())?;
    assert_eq!(dataplane.attachments()[0].mode, AttachMode::Generic);
    drop(dataplane);
    let dataplane = setup.start_with(options)?;
    assert!(dataplane.attachments()[0].adopted);
    assert_eq!(dataplane.attachments()[0].mode, AttachMode::Generic);
    Ok(())
}

#[test]
fn the_configured_mode_replaces_the_one_in_force() -> Result<()> {
    let setup = Setup::new()?;
    let mut options = setup.options();
    options.xdp_mode = XdpMode::Generic;
    let generic = setup.start_with(options)?;
    assert_eq!(generic.attachments()[0].mode, AttachMode::Generic);
    drop(generic);
    let native = setup.start()?;
    assert_eq!(native.attachments()[0].mode, AttachMode::Native);
    Ok(())
}

#[test]
fn unloading_leaves_nothing_and_may_be_repeated() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    dataplane.write(&[Write::Table { table: 0, slots: vec![1; SLOTS as usize] }])?;
    drop(dataplane);
    let unloaded = unload(&setup.pins)?;
    assert_eq!((unloaded.interfaces, unloaded.found), (vec![INTERFACE.to_owned()], true));
    assert!(!setup.pins.exists());
    assert!(!setup.link()?.contains("xdp"), "{}", setup.link()?);
    assert!(!unload(&setup.pins)?.found);

    // Half of it missing, and the interface gone.
    drop(setup.start()?);
    fs::remove_dir_all(setup.pins.join("maps"))?;
    fs::remove_dir_all(setup.pins.join("programs"))?;
    setup.ns.ip_batch("link del left\n")?;
    assert!(unload(&setup.pins)?.found);
    assert!(!setup.pins.exists());
    Ok(())
}
