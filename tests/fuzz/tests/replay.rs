//! Every committed input, replayed on a plain build: what the fuzzer once found stays found.

use std::{fs, path::Path};

/// The whole corpus stays small enough to be kept beside the code.
const MAX_CORPUS: u64 = 200 << 10;

#[test]
fn every_input_of_the_corpus() {
    let mut size = 0;
    for (name, target) in lb_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut inputs = 0;
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            let input = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            size += input.len() as u64;
            // Shown by a failing test only: which input it was.
            println!("{}", path.display());
            target(&input);
            inputs += 1;
        }
        assert!(inputs >= 10, "{} has only {inputs} inputs", folder.display());
    }
    assert!(size <= MAX_CORPUS, "the corpus has {size} bytes: minimise it");
}
