//! One version of the program: its pins, and whether a pinned one can be used as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    EbpfLoader,
    programs::{Program as Loaded, ProgramError},
};
use aya_obj::Object;
use lb_common::abi::{map, program};
use sha2::{Digest, Sha256};

use super::{
    error::OpenError,
    layout::MapPlan,
    loader,
    map::{Map, bytes_of},
    packet_log::{LEVEL_GLOBAL, PacketLogLevel},
    pins::{self, Pins},
    sys::{self, ProgramInfo},
};
use crate::dataplane::WriteError;

/// A loaded program.
#[derive(Debug)]
pub(crate) struct Program {
    fd: OwnedFd,
    pub(crate) info: ProgramInfo,
}

impl Program {
    fn from_pin(path: &Path) -> std::io::Result<Self> {
        let fd = sys::open_pin(path)?;
        let info = sys::program_info(fd.as_fd())?;
        Ok(Self { fd, info })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// All programs of one version.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Its folder of pins.
    pub(crate) folder: PathBuf,
    by_name: BTreeMap<String, Program>,
    /// Keeps the tail calls alive together with its pin.
    _tail_calls: Option<Map>,
}

/// What a version is loaded from.
pub(crate) struct Source<'a> {
    /// The kernel object.
    pub(crate) bytes: &'a [u8],
    /// The same, parsed.
    pub(crate) object: &'a Object,
    /// The pins of its maps by name.
    pub(crate) map_pins: &'a BTreeMap<String, PathBuf>,
    /// Its own program array.
    pub(crate) tail_calls: Option<&'a MapPlan>,
    /// Whether and how much it logs.
    pub(crate) level: Option<PacketLogLevel>,
}

/// Names a version by what it is made of: the object and what is set in it before it is loaded.
pub(crate) fn version(object: &[u8], level: Option<PacketLogLevel>) -> String {
    let digest = Sha256::digest(object);
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    match level {
        None => hex,
        Some(level) => format!("{hex}_{}", level.name()),
    }
}

impl Programs {
    /// The entry program.
    pub(crate) fn entry(&self) -> Result<&Program, OpenError> {
        self.get(program::ENTRY)
            .ok_or_else(|| OpenError::Object(format!("program {} missing", program::ENTRY)))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Program> {
        self.by_name.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Program> {
        self.by_name.values()
    }

    /// Finds pinned programs of this version that use these maps.
    pub(crate) fn find(
        pins: &Pins,
        version: &str,
        object: &Object,
        maps: &BTreeMap<String, Map>,
    ) -> Option<Self> {
        pins::names(&pins.programs())
            .iter()
            .filter(|name| name.split('-').next() == Some(version))
            .filter_map(|name| Self::open(&pins.programs().join(name), object).ok())
            .find(|programs| programs.use_maps(maps))
    }

    fn open(folder: &Path, object: &Object) -> Result<Self, OpenError> {
        let mut by_name = BTreeMap::new();
        for name in object.programs.keys() {
            let path = folder.join(name);
            let program =
                Program::from_pin(&path).map_err(OpenError::system(format!("open {}", path.display())))?;
            by_name.insert(name.clone(), program);
        }
        let tail_calls = Map::from_pin(map::PROGRAMS, &folder.join(map::PROGRAMS))?;
        if object.maps.contains_key(map::PROGRAMS) && tail_calls.is_none() {
            return Err(OpenError::Object(format!("{} has lost its {}", folder.display(), map::PROGRAMS)));
        }
        Ok(Self { folder: folder.to_owned(), by_name, _tail_calls: tail_calls })
    }

    /// Whether each of the two kinds of maps that are replaced together is the one these programs were loaded with.
    fn use_maps(&self, maps: &BTreeMap<String, Map>) -> bool {
        let used: BTreeSet<_> = self.iter().flat_map(|program| program.info.maps.iter()).collect();
        let representatives = [map::CONTROL, map::FLOWS[0], map::FLOWS[1], map::SERVICES[0], map::VERDICTS];
        representatives.iter().filter_map(|name| maps.get(*name)).all(|map| used.contains(&map.id()))
    }

    /// Loads the object against pinned maps and pins its programs in a folder of their own, which is gone again if that
    /// fails.
    pub(crate) fn load(pins: &Pins, version: &str, source: &Source<'_>) -> Result<Self, OpenError> {
        let folder = free_folder(&pins.programs(), version);
        std::fs::create_dir_all(&folder).map_err(OpenError::system(format!("make {}", folder.display())))?;
        let loaded = Self::load_into(&folder, source);
        if loaded.is_err() {
            // The failure itself is what is worth telling.
            let _ = pins::remove_folder(&folder);
        }
        loaded
    }

    fn load_into(folder: &Path, source: &Source<'_>) -> Result<Self, OpenError> {
        let tail_calls_path = folder.join(map::PROGRAMS);
        let tail_calls = match source.tail_calls {
            Some(plan) => Some(loader::create(map::PROGRAMS, plan, &tail_calls_path)?),
            None => None,
        };
        let level = source.level.map_or(&0, PacketLogLevel::value);
        let mut loader = EbpfLoader::new();
        loader.override_global(LEVEL_GLOBAL, level, source.level.is_some());
        for (name, path) in source.map_pins {
            loader.map_pin_path(name, path.as_path());
        }
        if tail_calls.is_some() {
            loader.map_pin_path(map::PROGRAMS, tail_calls_path.as_path());
        }
        let mut ebpf = loader.load(source.bytes).map_err(|error| OpenError::Object(chain(&error)))?;
        for (name, program) in ebpf.programs_mut() {
            load(name, program)?;
            let path = folder.join(name);
            program
                .pin(&path)
                .map_err(|error| refused(name, format!("pin {}: {}", path.display(), chain(&error))))?;
        }
        let programs = Self::open(folder, source.object)?;
        if let Some(tail_calls) = tail_calls {
            programs.fill_tail_calls(&tail_calls)?;
        }
        Ok(programs)
    }

    fn fill_tail_calls(&self, tail_calls: &Map) -> Result<(), WriteError> {
        let rows = [program::ADMIT[0], program::ADMIT[1], program::LOG];
        for (row, name) in (0u32..).zip(rows) {
            let Some(program) = self.get(name) else { continue };
            let fd = program.fd().as_raw_fd().cast_unsigned();
            sys::update(tail_calls.fd(), bytes_of(&row), bytes_of(&fd))
                .map_err(|error| tail_calls.error("write a program", &error))?;
            // The kernel answers with the program's id.
            if tail_calls.get::<u32, u32>(&row)? != Some(program.info.id) {
                return Err(tail_calls.differs("a program"));
            }
        }
        Ok(())
    }
}

fn load(name: &str, program: &mut Loaded) -> Result<(), OpenError> {
    let result = match program {
        Loaded::Xdp(program) => program.load(),
        Loaded::TracePoint(program) => program.load(),
        other => {
            return Err(refused(name, format!("programs of type {:?} are not known", other.prog_type())));
        }
    };
    result.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            tracing::debug!(program = name, "the verifier's log:\n{log}");
            refused(name, format!("{io_error}; the verifier's log ends with:\n{}", last_lines(&log, 12)))
        }
        other => refused(name, chain(&other)),
    })
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn refused(name: &str, reason: String) -> OpenError {
    OpenError::Load { program: name.to_owned(), reason }
}

/// The first of `version`, `version-1`, … that is not there. A version's folder may be in use with other maps.
fn free_folder(programs: &Path, version: &str) -> PathBuf {
    let mut folder = programs.join(version);
    let mut number = 0u32;
    while folder.exists() {
        number += 1;
        folder = programs.join(format!("{version}-{number}"));
    }
    folder
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
