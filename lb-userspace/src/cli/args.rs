//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use jiff::SignedDuration;

use crate::api::{
    client::Address,
    types::{FlowState, parse_prefix},
};

/// Where `lbd` listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/portside/lbd.sock";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  lbd refused or failed
  2  the command line is wrong, or a file it names cannot be read
  3  lbd cannot be reached
  4  the configuration is faulty
  5  there is no such service, group or target";

/// Look at Portside's agent `lbd` and steer it.
#[derive(Debug, Parser)]
#[command(name = "lbctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// lbd's Unix socket.
    #[arg(long, global = true, value_name = "PATH", env = "PORTSIDE_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// lbd's read-only TCP address, instead of the socket: HOST:PORT.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub address: Option<Address>,
    /// How to print: table, json or yaml.
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Table,
        hide_possible_values = true)]
    pub output: Format,
    /// When to use colours: auto (on a terminal, unless NO_COLOR is set), always or never.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto,
        hide_possible_values = true)]
    pub color: Color,
    /// Longest time to wait for an answer: seconds, or such as 500ms.
    #[arg(long, global = true, value_name = "TIME", default_value = "65s", value_parser = duration)]
    pub timeout: Duration,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// As the API says it; one document a line when there are many.
    Json,
    /// The same as YAML.
    Yaml,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the agent and its data plane as a whole.
    Status {
        /// Whether to go on.
        #[command(flatten)]
        watch: Watch,
    },
    /// List services and what they have carried.
    Services {
        /// Whether to go on.
        #[command(flatten)]
        watch: Watch,
    },
    /// List targets, or show one with its last checks.
    Targets {
        /// Only this group's targets, or only this one.
        #[arg(value_name = "GROUP[/TARGET]", value_parser = group_or_target)]
        name: Option<String>,
        /// Whether to go on.
        #[command(flatten)]
        watch: Watch,
    },
    /// List flows in the kernel's tables: those at work first, the newest first.
    Flows {
        /// Which flows.
        #[command(flatten)]
        flows: FlowsArgs,
        /// Whether to go on.
        #[command(flatten)]
        watch: Watch,
    },
    /// Show what became of packets, and why some were dropped.
    Drops {
        /// Show verdicts and reasons without a packet too.
        #[arg(long)]
        all: bool,
        /// Whether to go on.
        #[command(flatten)]
        watch: Watch,
    },
    /// List what has happened.
    Events {
        /// Stay, and print events as they happen.
        #[arg(short, long)]
        follow: bool,
    },
    /// Make a file the configuration, as a whole, or say its faults and change nothing.
    Apply {
        /// YAML or JSON; `-` reads standard input.
        file: PathBuf,
        /// Only check it and show what would change.
        #[arg(long)]
        dry_run: bool,
        /// Only if this revision is in force.
        #[arg(long, value_name = "NUMBER")]
        if_revision: Option<u64>,
    },
    /// Give a target no new flows and let those it has end.
    Drain {
        /// The target.
        #[arg(value_name = "GROUP/TARGET")]
        target: TargetName,
        /// How long its flows may last before they are ended: seconds, or such as 5m (default: the group's
        /// drain_deadline).
        #[arg(long, value_name = "TIME", value_parser = duration)]
        deadline: Option<Duration>,
        /// Return once no flow is left; those that are left at the deadline are ended then.
        #[arg(long)]
        wait: bool,
    },
    /// Let a target take flows again.
    Ready {
        /// The target.
        #[arg(value_name = "GROUP/TARGET")]
        target: TargetName,
    },
    /// Take a target out of service at once: no flows, no checks.
    Maintenance {
        /// The target.
        #[arg(value_name = "GROUP/TARGET")]
        target: TargetName,
    },
    /// Show the versions of lbctl and lbd.
    Version,
    /// Print a shell's completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, Args)]
pub struct Watch {
    /// Show it again every so many seconds (default 2).
    #[arg(
        long,
        value_name = "SECS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = interval
    )]
    pub watch: Option<Duration>,
}

/// Which flows.
#[derive(Debug, Clone, Args)]
pub struct FlowsArgs {
    /// Only flows made to this service.
    #[arg(long)]
    pub service: Option<String>,
    /// Only flows to this target, of this name in any group or as GROUP/TARGET.
    #[arg(long, value_name = "[GROUP/]TARGET", value_parser = group_or_target)]
    pub target: Option<String>,
    /// Only flows from this address or prefix.
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    pub client: Option<IpNet>,
    /// Only flows in this state.
    #[arg(long, value_parser = state_parser())]
    pub state: Option<FlowState>,
    /// Show so many at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// A target as GROUP/TARGET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetName {
    /// Its group.
    pub group: String,
    /// Its name in the group.
    pub target: String,
}

impl std::str::FromStr for TargetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((group, target)) if !group.is_empty() && !target.is_empty() => {
                Ok(Self { group: group.to_owned(), target: target.to_owned() })
            }
            _ => Err("give it as GROUP/TARGET, as `lbctl targets` shows it".to_owned()),
        }
    }
}

/// One name, or two with a slash between.
fn group_or_target(text: &str) -> Result<String, String> {
    match text.split('/').any(str::is_empty) {
        false => Ok(text.to_owned()),
        true => {
            Err("a name is missing: give one, or two as GROUP/TARGET, as `lbctl targets` shows them"
                .to_owned())
        }
    }
}

fn state_parser() -> impl clap::builder::TypedValueParser<Value = FlowState> {
    use clap::builder::{PossibleValuesParser, TypedValueParser as _};
    use strum::VariantNames as _;
    PossibleValuesParser::new(FlowState::VARIANTS).try_map(|name| name.parse::<FlowState>())
}

/// Reads a number of seconds, or a time such as `5m` and `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time: give seconds, or such as 500ms, 90s, 5m, 1h30m");
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| wrong());
    }
    let parsed = text.parse::<SignedDuration>().map_err(|_| wrong())?;
    Duration::try_from(parsed).map_err(|_| wrong())
}

/// A time between two looks: not so short that looking becomes a load.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < Duration::from_millis(100) {
        return Err("give at least 0.1 seconds".to_owned());
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("2", 2.0), ("0.5", 0.5), ("500ms", 0.5), ("5m", 300.0), ("1h30m", 5400.0)] {
            assert_eq!(duration(text).unwrap().as_secs_f64(), seconds, "{text}");
        }
        for text in ["", "-1", "-5m", "soon", "NaN", "1e30"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(interval("0").is_err());
    }

    #[test]
    fn target_names_are_read() {
        let name: TargetName = "web/10.0.1.2:8080".parse().unwrap();
        assert_eq!((name.group.as_str(), name.target.as_str()), ("web", "10.0.1.2:8080"));
        for text in ["web", "web/", "/a", ""] {
            assert!(text.parse::<TargetName>().is_err(), "{text}");
        }
        assert_eq!(["web", "web/a"].map(|text| group_or_target(text).unwrap()), ["web", "web/a"]);
        for text in ["web/", "/a", "", "/"] {
            assert!(group_or_target(text).is_err(), "{text}");
        }
    }
}
