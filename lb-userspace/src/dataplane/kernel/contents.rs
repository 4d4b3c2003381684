//! Reading back what is in force.

use lb_common::{
    abi::{self, AccessKey, Control, NextHop, Service, ServiceKey, Target, map},
    addr::{V4, V6},
};

use ipnet::IpNet;

use super::{KernelDataPlane, family::Family, map::Prefix};
use crate::dataplane::{AccessRow, Contents, ServiceRow, WriteError};

impl KernelDataPlane {
    pub(super) fn read_control(&self) -> Result<Control, WriteError> {
        Ok(self.map(map::CONTROL)?.get(&0u32)?.unwrap_or_default())
    }

    pub(super) fn read_contents(&self) -> Result<Contents, WriteError> {
        let generation = self.read_control()?.generation;
        let mut contents = Contents {
            targets: self.map(map::TARGETS)?.rows::<Target>()?,
            next_hops: self.map(map::NEXT_HOPS)?.rows::<NextHop>()?,
            routes: self.routes::<V4>()?,
            ..Contents::default()
        };
        contents.routes.extend(self.routes::<V6>()?);
        self.read_generation::<V4>(generation, &mut contents)?;
        self.read_generation::<V6>(generation, &mut contents)?;
        Ok(contents)
    }

    pub(super) fn routes<A: Family>(&self) -> Result<Vec<(IpNet, u32)>, WriteError> {
        let routes = self.map(map::ROUTES[A::INDEX])?.all::<Prefix<A>, u32>()?;
        Ok(routes
            .into_iter()
            .filter_map(|(prefix, row)| Some((prefix.key().net(prefix.bits())?, row)))
            .collect())
    }

    fn read_generation<A: Family>(&self, generation: u32, contents: &mut Contents) -> Result<(), WriteError> {
        if let Some(inner) = self.generation_map(map::SERVICES[A::INDEX], generation)? {
            let rows = inner.all::<ServiceKey<A>, Service>()?;
            contents.services.extend(rows.into_iter().map(|(key, service)| ServiceRow {
                address: key.address.to_ip(),
                port: key.port.get(),
                protocol: key.protocol,
                service,
            }));
        }
        if let Some(inner) = self.generation_map(map::ACCESS[A::INDEX], generation)? {
            let rows = inner.all::<Prefix<AccessKey<A>>, u32>()?;
            contents.access.extend(rows.into_iter().filter_map(|(prefix, verdict)| {
                let key = prefix.key();
                Some(AccessRow {
                    service: key.service,
                    prefix: key.address.net(prefix.bits().checked_sub(abi::ACCESS_SERVICE_BITS)?)?,
                    allow: verdict == abi::ALLOW,
                })
            }));
        }
        Ok(())
    }
}
