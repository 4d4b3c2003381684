//! How long a flow lives, from what was seen of it: pure functions of flags and time.

use crate::abi::{Control, TCP, flow_flags};

/// Where a flow stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Both directions open.
    Established,
    /// One side has closed.
    Closing,
    /// Both sides have closed, or one has reset; the source port rests.
    Closed,
}

/// The state of a flow from the flags of its entries; of a UDP exchange always established.
#[inline(always)]
pub fn state(forward_flags: u32, reverse_flags: u32) -> State {
    if reverse_flags & flow_flags::ENDED != 0 {
        State::Closed
    } else if (forward_flags | reverse_flags) & flow_flags::FIN != 0 {
        State::Closing
    } else {
        State::Established
    }
}

/// Ticks from `since` to `now`: none if another processor, which read the clock later, has written `since` meanwhile.
#[inline(always)]
pub fn elapsed(now: u32, since: u32) -> u32 {
    let ticks = now.wrapping_sub(since);
    if ticks as i32 >= 0 { ticks } else { 0 }
}

/// Ticks that a flow lives after its last packet.
#[inline(always)]
pub fn lifetime(control: &Control, protocol: u32, state: State) -> u32 {
    if protocol != TCP {
        return control.udp_established;
    }
    match state {
        State::Established => control.tcp_established,
        State::Closing => control.tcp_closing,
        State::Closed => control.tcp_time_wait,
    }
}

/// Whether `later` comes after `earlier` in TCP's circular sequence space (RFC 9293, section 3.4).
#[inline(always)]
pub fn after(later: u32, earlier: u32) -> bool {
    (later.wrapping_sub(earlier) as i32) > 0
}

/// How far past the last acknowledged octet a reset may be that its receiver takes: data may be on the way that was not
/// acknowledged yet.
const RESET_WINDOW: u32 = 1 << 24;

/// Whether the receiver of a reset, which has acknowledged this much, is likely to take it (RFC 5961, section 3.2, by which it
/// must be exactly the next octet, of which only the receiver is sure).
#[inline(always)]
pub fn resets(acknowledged: u32, sequence: u32) -> bool {
    sequence.wrapping_sub(acknowledged) < RESET_WINDOW
}

/// Whether a target that may hold the tuple in TIME_WAIT takes a SYN for a new connection at once, as Linux decides it:
/// the timestamp must not be older (RFC 7323, section 5.3), and either it is newer or the sequence number is past the
/// old connection's (RFC 9293, section 3.10.7.4; RFC 6191). Timestamps count only if both have one.
#[inline(always)]
pub fn reopens(old_sequence: u32, old_timestamp: Option<u32>, sequence: u32, timestamp: Option<u32>) -> bool {
    match (old_timestamp, timestamp) {
        (Some(old), Some(new)) if old != new => after(new, old),
        _ => after(sequence, old_sequence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_the_flags() {
        use flow_flags::{ENDED, FIN, REVERSE};
        assert_eq!(state(0, REVERSE), State::Established);
        assert_eq!(state(FIN, REVERSE), State::Closing);
        assert_eq!(state(0, REVERSE | FIN), State::Closing);
        assert_eq!(state(FIN, REVERSE | FIN | ENDED), State::Closed);
        assert_eq!(state(0, REVERSE | ENDED), State::Closed);
    }

    #[test]
    fn a_syn_reopens_time_wait_as_linux_decides() {
        assert!(reopens(1000, Some(5), 10, Some(6)), "newer timestamp, older sequence");
        assert!(!reopens(1000, Some(5), 2000, Some(4)), "older timestamp is rejected whatever the sequence");
        assert!(reopens(1000, Some(5), 1001, Some(5)));
        assert!(!reopens(1000, Some(5), 1000, Some(5)));
        assert!(reopens(u32::MAX - 5, None, 3, None), "past the wrap");
        assert!(!reopens(1000, None, 999, Some(1)));
    }

    #[test]
    fn a_reset_counts_from_what_was_acknowledged_on() {
        assert!(resets(1000, 1000) && resets(1000, 1000 + (1 << 20)) && resets(u32::MAX, 5));
        assert!(!resets(1000, 999) && !resets(1000, 1000 + (1 << 30)), "an older connection's, a guess");
    }

    #[test]
    fn what_is_later_than_now_is_now() {
        assert_eq!([elapsed(7, 5), elapsed(5, 5), elapsed(5, 6), elapsed(2, u32::MAX)], [2, 0, 0, 3]);
    }

    #[test]
    fn sequence_numbers_wrap() {
        assert!(after(1, 0) && after(0, u32::MAX) && !after(0, 0) && !after(u32::MAX, 0));
    }
}
