//! The kernel takes the object's programs.

use aya::{
    EbpfLoader,
    programs::{Program, Xdp},
};

#[test]
fn the_verifier_takes_every_program() {
    lb_tests::require::root().unwrap();
    let mut object = EbpfLoader::new()
        .verifier_log_level(aya::VerifierLogLevel::STATS)
        .load(lb_userspace::dataplane::object::OBJECT)
        .expect("the object parses");
    let mut loaded = 0;
    for (name, program) in object.programs_mut() {
        if let Program::Xdp(program) = program {
            let program: &mut Xdp = program;
            if let Err(error) = program.load() {
                let text = format!("{error:?}");
                std::fs::write("/tmp/verifier.log", &text).ok();
                panic!("{name}: {}", &text[text.len().saturating_sub(3000)..].replace("\\n", "\n"));
            }
            let info = program.info().expect("info");
            println!(
                "{name}: {:?} instructions verified, jited {}",
                info.verified_instruction_count(),
                info.size_jitted()
            );
            loaded += 1;
        }
    }
    assert_eq!(loaded, 5);
}
