//! Sets of ports, in the notation of `ip_local_reserved_ports`. Pure.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use thiserror::Error;

/// A set of ports, held as ranges: in order, none touching the next, so that equal sets are equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16)>);

/// A text that is no list of ports.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a port or a range of ports such as 30000-32767")]
pub struct PortSyntaxError(String);

impl PortSet {
    /// Its ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> + '_ {
        self.0.iter().map(|(first, last)| *first..=*last)
    }

    /// Whether it holds the port.
    pub fn contains(&self, port: u16) -> bool {
        self.ranges().any(|range| range.contains(&port))
    }

    /// The set with the range added.
    #[must_use]
    pub fn with(&self, range: &RangeInclusive<u16>) -> Self {
        Self::from_ranges(self.0.iter().copied().chain([(*range.start(), *range.end())]))
    }

    /// The set with the range taken away.
    #[must_use]
    pub fn without(&self, range: &RangeInclusive<u16>) -> Self {
        let (start, end) = (*range.start(), *range.end());
        let below = self.0.iter().filter(|(first, _)| *first < start);
        let above = self.0.iter().filter(|(_, last)| *last > end);
        let below = below.map(|(first, last)| (*first, (*last).min(start.saturating_sub(1))));
        let above = above.map(|(first, last)| ((*first).max(end.saturating_add(1)), *last));
        Self::from_ranges(below.chain(above))
    }

    /// The ports of the set that are in the range.
    #[must_use]
    pub fn within(&self, range: &RangeInclusive<u16>) -> Self {
        Self::from_ranges(
            self.0.iter().map(|(first, last)| (*first.max(range.start()), *last.min(range.end()))),
        )
    }

    /// Orders the ranges, joins those that touch, and leaves out empty ones.
    fn from_ranges(ranges: impl Iterator<Item = (u16, u16)>) -> Self {
        let mut ranges: Vec<_> = ranges.filter(|(first, last)| first <= last).collect();
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }
}

impl FromStr for PortSet {
    type Err = PortSyntaxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.trim().split(',').map(str::trim).filter(|part| !part.is_empty());
        let ranges: Result<Vec<_>, _> = parts.map(range).collect();
        Ok(Self::from_ranges(ranges?.into_iter()))
    }
}

fn range(text: &str) -> Result<(u16, u16), PortSyntaxError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err(PortSyntaxError(text.to_owned())),
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> PortSet {
        text.parse().unwrap()
    }

    #[test]
    fn reads_the_kernels_notation_and_writes_it_in_order() {
        for (text, written) in [
            ("", ""),
            ("\n", ""),
            ("8080\n", "8080"),
            ("9148,8080", "8080,9148"),
            ("1-4,3-9,10", "1-10"),
            ("65535,0", "0,65535"),
        ] {
            assert_eq!(set(text).to_string(), written);
        }
    }

    #[test]
    fn names_the_part_that_is_wrong() {
        for (text, part) in [("80,x", "x"), ("9-3", "9-3"), ("70000", "70000"), ("1-2-3", "1-2-3")] {
            assert_eq!(text.parse::<PortSet>(), Err(PortSyntaxError(part.to_owned())));
        }
    }

    #[test]
    fn the_edges_of_the_port_space_are_ports_like_others() {
        assert_eq!(set("0-65535").without(&(0..=0)).to_string(), "1-65535");
        assert_eq!(set("0-65535").without(&(65535..=65535)).to_string(), "0-65534");
        assert_eq!(set("0-65535").without(&(0..=65535)).to_string(), "");
    }

    fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
        let small = prop_oneof![0_u16..40, 65_500_u16..=65_535];
        prop::collection::vec((small.clone(), small).prop_map(|(a, b)| (a.min(b), a.max(b))), 0..6)
    }

    proptest! {
        #[test]
        fn every_operation_agrees_with_its_meaning_port_by_port(own in ranges(), (a, b) in (0_u16..40, 0_u16..40)) {
            let (own, other) = (PortSet::from_ranges(own.into_iter()), a.min(b)..=a.max(b));
            let (with, without, within) = (own.with(&other), own.without(&other), own.within(&other));
            for port in (0..60).chain(65_490..=65_535) {
                let (had, given) = (own.contains(port), other.contains(&port));
                prop_assert_eq!(with.contains(port), had || given);
                prop_assert_eq!(without.contains(port), had && !given);
                prop_assert_eq!(within.contains(port), had && given);
            }
            for set in [with, without, within] {
                prop_assert_eq!(&set.to_string().parse::<PortSet>().unwrap(), &set);
            }
        }
    }
}
