//! The groups' checks made ready to run, and the certificates that they trust read again.

use std::{collections::BTreeMap, sync::Arc};

use tokio::task::block_in_place;

use super::engine::Engine;
use crate::{
    api::types::EventKind,
    config::{
        Config,
        model::{HealthCheck, Probe},
    },
    core::Checks,
    health::{self, CompileError, Compiled, Compiler},
};

/// Every group's check, made ready once for all its targets.
#[derive(Debug, Default)]
pub(super) struct ReadyChecks {
    compiler: Compiler,
    /// By group: that of the configuration in force, and those that were looked at since the last [`Self::renew`].
    known: BTreeMap<String, Vec<(HealthCheck, Arc<Compiled>)>>,
    /// What could not be read, in whole sentences.
    pub(super) warnings: Vec<String>,
}

impl ReadyChecks {
    /// A group's check; reads what it trusts if it was not known before.
    pub(super) fn ready(&mut self, group: &str, check: &HealthCheck) -> Result<Arc<Compiled>, CompileError> {
        let known = self.known.entry(group.to_owned()).or_default();
        if let Some((_, ready)) = known.iter().find(|(known, _)| known == check) {
            return Ok(Arc::clone(ready));
        }
        let ready = Arc::new(self.compiler.compile(check)?);
        known.push((check.clone(), Arc::clone(&ready)));
        Ok(ready)
    }

    /// Reads again what the checks in force trust and forgets all other checks. Returns those that trust other
    /// certificates now, by group. What cannot be read is a warning, and the check stays as it is.
    fn renew(&mut self, config: &Config) -> Vec<(String, Arc<Compiled>)> {
        self.compiler = Compiler::default();
        self.warnings.clear();
        let mut before = std::mem::take(&mut self.known);
        let mut renewed = Vec::new();
        for group in &config.groups {
            let Some(check) = &group.health else { continue };
            let known = before.remove(&group.name).into_iter().flatten().find(|(known, _)| known == check);
            let old = known.map(|(_, ready)| ready);
            let ready = match old {
                Some(old) if !matches!(check.probe, Probe::Https { .. }) => old,
                old => match (self.compiler.compile(check), old) {
                    (Ok(new), Some(old)) if new.trusts_as(&old) => old,
                    (Ok(new), _) => {
                        let new = Arc::new(new);
                        renewed.push((group.name.clone(), Arc::clone(&new)));
                        new
                    }
                    (Err(error), old) => {
                        let state = if old.is_some() {
                            "its checks go on with the certificates read before"
                        } else {
                            "it is not checked"
                        };
                        self.warnings.push(format!(
                            "group {}: {error}; {state}: when that is mended, send lbd SIGHUP or apply again",
                            group.name
                        ));
                        let Some(old) = old else { continue };
                        old
                    }
                },
            };
            self.known.insert(group.name.clone(), vec![(check.clone(), ready)]);
        }
        renewed
    }
}

impl Engine {
    pub(super) async fn start_checks(&mut self, checks: Checks) {
        let Checks { life, group, address, check } = checks;
        match block_in_place(|| self.checks.ready(&group, &check)) {
            Ok(check) => {
                self.instruct_prober(health::Command::Start { target: life, address, check }).await;
            }
            // Found out before a configuration is accepted; only a restart can meet it.
            Err(error) => {
                let message = format!("group {group} is not checked: {error}");
                if !self.checks.warnings.contains(&message) {
                    tracing::error!("{message}");
                    self.checks.warnings.push(message);
                }
            }
        }
    }

    /// Reads CA files and the host's trusted roots again: targets are checked with what has changed from now on.
    pub(super) async fn renew_checks(&mut self) {
        let Some(config) = self.core.config().cloned() else { return };
        let before = self.checks.warnings.clone();
        let renewed = block_in_place(|| self.checks.renew(&config));
        for warning in self.checks.warnings.iter().filter(|warning| !before.contains(warning)) {
            tracing::warn!("{warning}");
        }
        for (group, check) in renewed {
            self.tell(
                EventKind::Configuration,
                &group,
                "its checks trust other certificates: they were read again",
            );
            let targets: Vec<_> = (self.core.groups().filter(|(config, _)| config.name == group))
                .flat_map(|(_, state)| &state.targets)
                .filter_map(|target| Some((target.life, target.address(), target.health.as_ref()?.due())))
                .collect();
            for (target, address, due) in targets {
                let check = Arc::clone(&check);
                self.instruct_prober(health::Command::Start { target, address, check }).await;
                self.instruct_prober(health::Command::Probe { target, check: due.check, at: due.at }).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config;

    fn write_authority(file: &Path) {
        let authority = rcgen::generate_simple_self_signed(["authority.internal".to_owned()]).unwrap();
        fs::write(file, authority.cert.pem()).unwrap();
    }

    #[test]
    fn a_renewed_ca_file_is_read_again_and_one_that_cannot_be_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        write_authority(&file);
        let text = format!(
            "{{interfaces: [eth0], snat: {{ipv4: [10.0.0.2], ports: 2000-31999}},
              services: [{{name: web, address: 10.0.0.9, protocol: tcp, port: 80, allow: any, group: web}}],
              groups: [{{name: web, targets: [{{address: 10.0.0.21, port: 8443}}],
                         health: {{https: {{path: /}}, tls: {{ca_file: {}}}}}}}]}}",
            file.display()
        );
        let config = config::parse(&text, "test").unwrap_or_else(|faults| panic!("{faults}")).config;
        let check = config.groups[0].health.clone().unwrap();
        let mut checks = ReadyChecks::default();
        let first = checks.ready("web", &check).unwrap();
        assert!(checks.renew(&config).is_empty(), "the same certificates");
        assert!(Arc::ptr_eq(&checks.ready("web", &check).unwrap(), &first));

        write_authority(&file);
        let renewed = checks.renew(&config);
        assert_eq!(renewed.len(), 1);
        assert_eq!(renewed[0].0, "web");
        let second = checks.ready("web", &check).unwrap();
        assert!(Arc::ptr_eq(&second, &renewed[0].1) && !Arc::ptr_eq(&second, &first));

        fs::write(&file, "no certificate").unwrap();
        assert!(checks.renew(&config).is_empty());
        assert!(Arc::ptr_eq(&checks.ready("web", &check).unwrap(), &second), "the old one goes on");
        let [warning] = checks.warnings.as_slice() else { panic!("{:?}", checks.warnings) };
        for part in ["group web", "ca.pem", "go on with the certificates read before", "SIGHUP"] {
            assert!(warning.contains(part), "no {part} in {warning}");
        }

        write_authority(&file);
        assert_eq!(checks.renew(&config).len(), 1);
        assert!(checks.warnings.is_empty());
    }
}
