//! Each error that keeps the data plane from starting, with the text that its user sees. Privilege and the kernel's age
//! are tested beside their code, on values.

use anyhow::{Context as _, Result, ensure};
use lb_tests::xdp_pass;
use lb_userspace::dataplane::kernel::{KernelDataPlane, KernelOptions, OpenError, unload};

use crate::setup::{INTERFACE, Setup};

fn open_error(setup: &Setup, options: KernelOptions) -> Result<OpenError> {
    setup.inside(|| match KernelDataPlane::open(options) {
        Ok(_) => anyhow::bail!("opened"),
        Err(error) => Ok(error),
    })
}

#[test]
fn a_foreign_program_is_named_and_left_alone() -> Result<()> {
    let setup = Setup::new()?;
    xdp_pass::attach(&setup.ns, INTERFACE)?;
    let error = open_error(&setup, setup.options())?;
    let OpenError::ForeignProgram { id, name, .. } = &error else { anyhow::bail!("{error}") };
    assert_eq!(name, "test_pass");
    let text = error.to_string();
    assert!(
        text.contains("interface left already carries an XDP program that is not this Portside's"),
        "{text}"
    );
    assert!(text.contains("ip link set dev left xdpdrv off"), "{text}");
    assert!(setup.link()?.contains(&format!("prog/xdp id {id}")), "{}", setup.link()?);
    // The advice holds.
    setup.ns.exec("ip", &["link", "set", "dev", INTERFACE, "xdpdrv", "off"])?;
    setup.start()?;
    Ok(())
}

#[test]
fn a_foreign_programs_link_is_named() -> Result<()> {
    let setup = Setup::new()?;
    let link = xdp_pass::link(&setup.ns, INTERFACE)?;
    let text = open_error(&setup, setup.options())?.to_string();
    ensure!(text.contains("bpftool link detach id "), "{text}");
    drop(link);
    setup.start()?;
    Ok(())
}

#[test]
fn another_portsides_program_is_foreign_too() -> Result<()> {
    let setup = Setup::new()?;
    let first = setup.start()?;
    let mut options = setup.options();
    options.pin_dir = setup
        .pins
        .with_extension("other")
        .with_file_name(format!("{}-other", setup.pins.file_name().unwrap_or_default().to_string_lossy()));
    let other = options.pin_dir.clone();
    let error = open_error(&setup, options)?;
    assert!(matches!(&error, OpenError::ForeignProgram { name, .. } if name == "portside"), "{error}");
    assert!(error.to_string().contains("lbd unload --pin-dir"), "{error}");
    assert!(!other.exists(), "a refused start leaves nothing");
    drop(first);
    Ok(())
}

#[test]
fn pins_need_a_bpf_file_system() -> Result<()> {
    let setup = Setup::new()?;
    let folder = tempfile::tempdir()?;
    let mut options = setup.options();
    options.pin_dir = folder.path().join("portside");
    let text = open_error(&setup, options)?.to_string();
    let wanted = format!(
        "{}/portside is not on a BPF file system, which keeps the data plane alive without the agent; mount one: \
         mount -t bpf bpf {}",
        folder.path().display(),
        folder.path().display()
    );
    assert_eq!(text, wanted);
    Ok(())
}

#[test]
fn a_missing_interface_is_named() -> Result<()> {
    let setup = Setup::new()?;
    let mut options = setup.options();
    options.interfaces.push("nowhere0".to_owned());
    setup.inside(|| {
        let mut dataplane = KernelDataPlane::open(options)?;
        let error = dataplane.attach().err().context("attached to nothing")?;
        let text = error.to_string();
        ensure!(text.starts_with("there is no interface nowhere0; correct `interfaces`"), "{text}");
        // The others have the program all the same.
        assert_eq!(dataplane.attachments().len(), 1);
        Ok(())
    })
}

#[test]
fn two_agents_do_not_share_pins() -> Result<()> {
    let setup = Setup::new()?;
    let first = setup.start()?;
    let error = open_error(&setup, setup.options())?;
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().starts_with("another agent is at work on "), "{error}");
    assert!(matches!(unload(&setup.pins), Err(OpenError::InUse { .. })));
    drop(first);
    setup.start()?;
    Ok(())
}

#[test]
fn a_damaged_object_is_told() -> Result<()> {
    let setup = Setup::new()?;
    let mut options = setup.options();
    options.object = vec![0; 4096].into();
    let text = open_error(&setup, options)?.to_string();
    assert!(text.starts_with("the kernel object is damaged: "), "{text}");
    Ok(())
}
