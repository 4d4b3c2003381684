//! The state folder: what is kept over a restart and over damage.

use std::{collections::BTreeMap, fs, path::Path};

use jiff::Timestamp;

use super::super::{
    revision::{REVISIONS_KEPT, Revisions},
    state::{Kept, StateError, read_text},
};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

#[test]
fn the_revision_in_force_survives_a_restart() {
    let folder = folder();
    let path = folder.path().join("made/when/missing");
    let mut revisions = Revisions::open(&path).expect("opened");
    assert_eq!(revisions.current(), None);
    revisions.next("a: 1\n", "/etc/portside.yaml", at(1)).expect("stored");
    let second = revisions.next("a: 2\n", "api", at(2)).expect("stored").clone();
    assert_eq!((second.number, second.accepted_at, second.source.as_str()), (2, at(2), "api"));
    assert_eq!(second.sha256, "3a55d721fdd6a21fc7793a07ad20c6ad037c302ad003f552d5913039777eaec0");

    let again = Revisions::open(&path).expect("opened again");
    assert_eq!(again.current(), Some(&second));
    assert_eq!(again.numbers(), [1, 2]);
    assert_eq!(again.get(1).expect("read").map(|revision| revision.text).as_deref(), Some("a: 1\n"));
    assert_eq!(again.get(3).expect("no error"), None);
}

#[test]
fn only_the_last_revisions_are_kept() {
    let folder = folder();
    let mut revisions = Revisions::open(folder.path()).expect("opened");
    for number in 1..=25_i64 {
        revisions.next(&format!("a: {number}"), "api", at(number)).expect("stored");
    }
    assert_eq!(names(folder.path()).len(), REVISIONS_KEPT);
    let again = Revisions::open(folder.path()).expect("opened again");
    assert_eq!(again.numbers(), (6..=25).collect::<Vec<u64>>());
    assert_eq!(again.current().map(|revision| revision.text.as_str()), Some("a: 25"));
}

/// Cut off anywhere, or with any byte changed, the file in force is an error that names it, and older revisions do
/// not take its place.
#[test]
fn a_damaged_revision_is_a_clear_error() {
    let folder = folder();
    let mut revisions = Revisions::open(folder.path()).expect("opened");
    revisions.next("a: 1", "api", at(1)).expect("stored");
    revisions.next("a: \"é\"", "api", at(2)).expect("stored");
    let path = folder.path().join("revision-2.json");
    let whole = fs::read(&path).expect("the file");
    let opened = || Revisions::open(folder.path()).map(|revisions| revisions.current().cloned());
    let good = opened().expect("opened");

    // The last byte is the line's end; without it the file is whole.
    for length in 0..whole.len() - 1 {
        fs::write(&path, &whole[..length]).expect("written");
        let error = opened().expect_err("cut off").to_string();
        let expected = format!("{}: this file is damaged (", path.display());
        assert!(error.starts_with(&expected), "cut at {length}: {error}");
    }
    for place in 0..whole.len() - 1 {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        fs::write(&path, &changed).expect("written");
        assert!(matches!(opened(), Err(StateError::Damaged { .. })), "byte {place} changed");
    }
    fs::copy(folder.path().join("revision-1.json"), &path).expect("copied");
    let error = opened().expect_err("another's content").to_string();
    assert_eq!(
        error,
        format!(
            "{}: this file is damaged (it holds revision 1); nothing was changed. Restore it from a backup, or move \
             it away to go on without what it holds",
            path.display()
        )
    );
    fs::write(&path, &whole).expect("written");
    assert_eq!(opened().expect("whole again"), good);
}

/// What a crash left half written is cleared away, and what is not the agent's is left alone.
#[test]
fn unfinished_files_are_cleared_away() {
    let folder = folder();
    fs::write(folder.path().join(".unfinished-x1"), "{").expect("written");
    fs::write(folder.path().join("revision-one.json"), "{").expect("written");
    fs::write(folder.path().join("revision-007.json"), "{").expect("written");
    fs::write(folder.path().join("notes.txt"), "mine").expect("written");
    let revisions = Revisions::open(folder.path()).expect("opened");
    assert_eq!(revisions.current(), None);
    assert_eq!(names(folder.path()), ["notes.txt", "revision-007.json", "revision-one.json"]);
}

/// A failed write leaves the revision before in force.
#[test]
fn a_failed_write_changes_nothing() {
    let folder = folder();
    let path = folder.path().join("state");
    let mut revisions = Revisions::open(&path).expect("opened");
    let first = revisions.next("a: 1", "api", at(1)).expect("stored").clone();
    fs::rename(&path, folder.path().join("aside")).expect("renamed");
    let error = revisions.next("a: 2", "api", at(2)).expect_err("no folder").to_string();
    assert!(error.starts_with(&format!("{}/revision-2.json: cannot write it: ", path.display())), "{error}");
    assert_eq!(revisions.current(), Some(&first));
    fs::rename(folder.path().join("aside"), &path).expect("renamed");
    assert_eq!(revisions.next("a: 3", "api", at(3)).expect("stored").number, 2);
}

#[test]
fn the_folder_may_not_be_a_file() {
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, "").expect("written");
    let error = Revisions::open(&path).expect_err("a file").to_string();
    assert!(error.starts_with(&format!("{}: cannot create it: ", path.display())), "{error}");
}

#[test]
fn a_small_value_is_kept() {
    type Value = BTreeMap<String, BTreeMap<String, i64>>;
    let folder = folder();
    let kept = Kept::<Value>::open(folder.path(), "admin").expect("opened");
    assert_eq!(kept.load().expect("no error"), None);
    let value: Value = [("web".to_owned(), [("a".to_owned(), 7)].into())].into();
    kept.store(&value).expect("stored");
    let again = Kept::<Value>::open(folder.path(), "admin").expect("opened again");
    assert_eq!(again.load().expect("read"), Some(value));
    assert_eq!(names(folder.path()), ["admin.json"]);

    // JSON of another shape, in an honest seal, is damage as well.
    Kept::<Vec<u8>>::open(folder.path(), "admin").expect("opened").store(&vec![1]).expect("stored");
    let error = again.load().expect_err("another shape").to_string();
    assert!(
        error.contains("admin.json: this file is damaged (invalid type: sequence, expected a map"),
        "{error}"
    );
}

#[test]
fn the_file_is_compared_with_the_revision() {
    let folder = folder();
    let mut revisions = Revisions::open(&folder.path().join("state")).expect("opened");
    let file = folder.path().join("portside.yaml");
    let revision = revisions.next("a: 1\n", "api", at(1)).expect("stored").clone();
    let missing = revision.differs_from(&file).expect_err("no file");
    assert!(missing.starts_with("cannot open it: "), "{missing}");
    assert!(read_text(&file).expect_err("no file").to_string().ends_with(&format!(": {missing}")));
    fs::write(&file, "a: 1\n").expect("written");
    assert!(!revision.differs_from(&file).expect("read"));
    fs::write(&file, include_str!("../../../../examples/portside.yaml")).expect("written");
    assert!(revision.differs_from(&file).expect("read"));
    fs::write(&file, "interfaces: [eth0]\nxdp: natve\n").expect("written");
    let faulty = revision.differs_from(&file).expect_err("faulty");
    let number =
        super::super::parse("interfaces: [eth0]\nxdp: natve\n", "").expect_err("faulty").faults.len();
    assert_eq!(faulty, format!("it has {number} faults; `lbd check {}` says where", file.display()));
}

#[test]
fn a_configuration_file_that_is_no_text() {
    let folder = folder();
    let file = folder.path().join("portside.yaml");
    fs::write(&file, b"a: 1\nb: \xff\n").expect("written");
    let told = || read_text(&file).expect_err("no text").to_string();
    assert_eq!(told(), format!("{}: line 2 is not UTF-8 text", file.display()));
    fs::File::create(&file).and_then(|file| file.set_len(super::super::MAX_TEXT as u64 + 1)).expect("made");
    assert_eq!(
        told(),
        format!("{}: is too large; a configuration has at most 16777216 bytes", file.display())
    );
}
