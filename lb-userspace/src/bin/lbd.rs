//! `lbd`, Portside's agent.

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use lb_userspace::{
    agent::{self, AgentError, Options, UnloadOptions},
    config::{self, state::read_text},
    dataplane::kernel::{DEFAULT_PIN_DIR, PACKET_LOG_TARGET, PacketLogLevel},
    words::plural,
};
use tracing_subscriber::{EnvFilter, fmt};

const DEFAULT_STATE_DIR: &str = "/var/lib/portside";
const DEFAULT_SOCKET: &str = "/run/portside/lbd.sock";

/// Portside's agent: loads the XDP program, checks the targets, keeps the maps true, serves the REST API.
///
/// Stopping it leaves the data plane at work; `lbd unload` removes it.
#[derive(Debug, Parser)]
#[command(name = "lbd", version, after_help = EXIT_CODES)]
struct Cli {
    /// How log lines are written, to standard error.
    #[arg(long, value_enum, default_value_t, global = true, env = "PORTSIDE_LOG_FORMAT")]
    log_format: LogFormat,
    /// What is logged: a level, or directives such as `info,lb_userspace::net=debug`.
    #[arg(long, default_value = "info", global = true, env = "PORTSIDE_LOG")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or stopped by a signal
  1  the system refused something
  2  the command line is wrong
  3  this host is not fit: privileges, kernel, BPF file system, the interface's driver
  4  the configuration is faulty or cannot be used on this host
  5  another agent, or another XDP program, is in the way";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent until SIGTERM; SIGHUP reads the configuration file again.
    Run(RunArgs),
    /// Check a configuration file and print every fault.
    Check {
        /// The file, or `-` for standard input.
        file: PathBuf,
    },
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Remove every trace from this host: programs, maps, VIPs, reserved ports. Revisions are kept.
    Unload(Folders),
    /// Print the version.
    Version,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The configuration file: seeds the first start; later starts use the accepted revision.
    #[arg(long, value_name = "FILE", env = "PORTSIDE_CONFIG")]
    config: Option<PathBuf>,
    /// The interface that carries the program, in place of the configured ones.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// The API's socket.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "PORTSIDE_SOCKET")]
    socket: PathBuf,
    /// How much the program logs of single packets.
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    packet_log: PacketLogArg,
    #[command(flatten)]
    folders: Folders,
}

#[derive(Debug, Args)]
struct Folders {
    /// Where revisions and target states are kept.
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_STATE_DIR, env = "PORTSIDE_STATE_DIR")]
    state_dir: PathBuf,
    /// Where programs, maps and links are pinned, on a BPF file system.
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_PIN_DIR, env = "PORTSIDE_PIN_DIR")]
    pin_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum PacketLogArg {
    /// Nothing.
    #[default]
    Off,
    /// Nothing so far: the program has no errors of its own to tell.
    Error,
    /// Each packet that is dropped.
    Info,
    /// Each packet.
    Debug,
}

impl PacketLogArg {
    fn level(self) -> Option<PacketLogLevel> {
        match self {
            Self::Off => None,
            Self::Error => Some(PacketLogLevel::Error),
            Self::Info => Some(PacketLogLevel::Info),
            Self::Debug => Some(PacketLogLevel::Debug),
        }
    }
}

fn main() -> ExitCode {
    let Cli { log_format, log, command } = Cli::parse();
    match command {
        Command::Run(args) => match start_log(log_format, &log, args.packet_log.level()) {
            Ok(()) => run(args),
            Err(error) => say(&format!("--log: {error}"), 2),
        },
        Command::Check { file } => check(&file),
        Command::Schema => print(&format!("{:#}", config::schema())),
        Command::Unload(folders) => match start_log(log_format, &log, None) {
            Ok(()) => unload(folders),
            Err(error) => say(&format!("--log: {error}"), 2),
        },
        Command::Version => {
            let abi = lb_common::abi::VERSION;
            print(&format!("lbd {} (map layout {abi})", env!("CARGO_PKG_VERSION")))
        }
    }
}

fn run(args: RunArgs) -> ExitCode {
    let RunArgs { config, interface, socket, packet_log, folders } = args;
    let options = Options {
        config,
        interface,
        state_dir: folders.state_dir,
        socket,
        pin_dir: folders.pin_dir,
        packet_log: packet_log.level(),
    };
    finish(in_runtime(agent::run(options)))
}

fn unload(folders: Folders) -> ExitCode {
    let options = UnloadOptions { state_dir: folders.state_dir, pin_dir: folders.pin_dir };
    match in_runtime(async move { agent::unload(&options).await }) {
        Ok(done) if done.is_empty() => print("nothing was there to remove"),
        Ok(done) => print(&done.join("\n")),
        Err(error) => finish(Err(error)),
    }
}

fn in_runtime<T>(work: impl Future<Output = Result<T, AgentError>>) -> Result<T, AgentError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| AgentError::System { what: "start the runtime".to_owned(), source })?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

fn finish(result: Result<(), AgentError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => say(&error.to_string(), error.exit_code()),
    }
}

fn check(file: &Path) -> ExitCode {
    let (name, text) = if file == Path::new("-") {
        (
            "standard input".to_owned(),
            std::io::read_to_string(std::io::stdin()).map_err(|error| error.to_string()),
        )
    } else {
        (file.display().to_string(), read_text(file).map_err(|error| error.to_string()))
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => return say(&error, 1),
    };
    match config::parse(&text, &name) {
        Ok(checked) => {
            for warning in &checked.warnings {
                say(&format!("warning: {warning}"), 0);
            }
            let config::Config { services, groups, .. } = &checked.config;
            let targets: usize = groups.iter().map(|group| group.targets.len()).sum();
            print(&format!(
                "{name} is sound: {}, {}, {}",
                plural(services.len() as u64, "service"),
                plural(groups.len() as u64, "group"),
                plural(targets as u64, "target")
            ))
        }
        Err(faults) => say(&faults.to_string(), 4),
    }
}

fn start_log(format: LogFormat, filter: &str, packet_log: Option<PacketLogLevel>) -> Result<(), String> {
    let filter = log_filter(filter, packet_log)?;
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    }
    .map_err(|error| error.to_string())
}

/// What is logged. Packets that were asked for are, whatever the level of the rest.
fn log_filter(directives: &str, packet_log: Option<PacketLogLevel>) -> Result<EnvFilter, String> {
    let filter = EnvFilter::try_new(directives).map_err(|error| error.to_string())?;
    let Some(level) = packet_log else { return Ok(filter) };
    let packets = format!("{PACKET_LOG_TARGET}={}", level.name());
    Ok(filter.add_directive(packets.parse().map_err(|error| format!("{packets}: {error}"))?))
}

/// To standard output; a reader that has gone away is fine.
fn print(text: &str) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{text}");
    ExitCode::SUCCESS
}

/// To standard error.
fn say(text: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use clap::CommandFactory as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(directives: &str, packet_log: Option<PacketLogLevel>) -> String {
        let lines = Lines::default();
        let to = lines.clone();
        let log = fmt()
            .with_env_filter(log_filter(directives, packet_log).unwrap())
            .with_writer(move || to.clone())
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::debug!(target: PACKET_LOG_TARGET, "each packet");
            tracing::info!(target: PACKET_LOG_TARGET, "dropped packet");
            tracing::info!(target: "lb_userspace", "agent");
            tracing::debug!(target: "lb_userspace", "agent's detail");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn packets_that_are_asked_for_are_logged_whatever_the_level_of_the_rest() {
        use PacketLogLevel::{Debug, Info};
        assert_eq!(logged("info", Some(Debug)), "each packet\ndropped packet\nagent\n");
        assert_eq!(logged("info", Some(Info)), "dropped packet\nagent\n");
        assert_eq!(logged("error", Some(Info)), "dropped packet\n");
        assert_eq!(logged("error", None), "");
        assert!(log_filter("a=b=c", None).is_err());
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let version = Cli::try_parse_from(["lbd", "-V"]).unwrap_err().to_string();
        assert_eq!(version, format!("lbd {}\n", env!("CARGO_PKG_VERSION")));
    }
}
