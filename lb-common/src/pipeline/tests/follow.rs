//! Handshakes, and what a flow follows.

use super::world::both;

both!(
    a_retransmitted_syn_stays_with_its_target,
    a_syn_that_its_target_left_unanswered_is_chosen_anew_when_it_takes_no_flows,
    a_handshake_does_not_outlive_its_target,
    a_client_that_moves_is_followed,
    udp_is_promoted_by_the_first_reply,
    udp_expires,
    the_sweep_takes_what_has_expired,
);

mod cases {
    use crate::{
        abi::{UDP, flow_flags, target_flags},
        memory::{Families, Memory},
        pipeline::reclaim,
        tables::Tables,
        verdict::Verdict,
    };

    use super::super::world::{ACK, INGRESS, In, MACS, SYN, SYN_ACK, World, segment};

    pub(super) fn a_retransmitted_syn_stays_with_its_target<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        let there = world.sends(&client, segment(SYN, 1000, 0));
        world.choose(2);
        world.wait(90);
        assert_eq!(world.sends(&client, segment(SYN, 1000, 0)), there);
        world.wait(90);
        assert_eq!(world.sends(&there.reversed(), segment(SYN_ACK, 5000, 1001)), client.reversed());
        assert_eq!(world.sends(&client, segment(ACK, 1001, 5001)), there);
        assert_eq!(world.flows(), (1, 0));
    }

    pub(super) fn a_syn_that_its_target_left_unanswered_is_chosen_anew_when_it_takes_no_flows<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        let first = world.sends(&client, segment(SYN, 1000, 0));
        world.choose(2);
        world.memory.targets[1].flags = target_flags::NO_NEW_FLOWS;
        let second = world.sends(&client, segment(SYN, 1000, 0));
        assert_ne!(second.dst, first.dst);
        // An answered one stays.
        world.sends(&second.reversed(), segment(SYN_ACK, 5000, 1001));
        world.choose(1);
        world.memory.targets[2].flags = target_flags::NO_NEW_FLOWS;
        assert_eq!(world.sends(&client, segment(SYN, 1000, 0)), second);
    }

    pub(super) fn a_handshake_does_not_outlive_its_target<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        let there = world.sends(&client, segment(SYN, 1000, 0));
        world.sends(&there.reversed(), segment(SYN_ACK, 5000, 1001));
        world.memory.targets[1].incarnation += 1;
        let came = world.send(&client, segment(ACK, 1001, 5001));
        assert_eq!((came.verdict, came.key), (Verdict::AnsweredReset, client.reversed()));
        assert_eq!((world.flows(), world.entries()), ((0, 0), 0));
    }

    pub(super) fn a_client_that_moves_is_followed<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        let there = world.establish(&client);
        let reply = there.reversed();
        assert_eq!(world.send(&reply, segment(ACK, 5001, 1001)).mac, MACS.0);
        let router = ([2, 9, 9, 9, 9, 9], [2, 8, 8, 8, 8, 8]);
        world.way = (INGRESS, router);
        world.sends(&client, segment(ACK, 1001, 5001));
        assert_eq!(world.send(&reply, segment(ACK, 5001, 1001)).mac, router.0);
        // By another interface: replies are redirected to it.
        world.way = (INGRESS + 1, router);
        assert_eq!(world.send(&client, segment(ACK, 1001, 5001)).verdict, Verdict::Redirected);
        world.way = (INGRESS, MACS);
        let came = world.send(&reply, segment(ACK, 5001, 1001));
        assert_eq!((came.verdict, came.mac), (Verdict::Redirected, router.0));
    }

    pub(super) fn udp_is_promoted_by_the_first_reply<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, UDP);
        let there = world.sends(&client, segment(0, 0, 0));
        assert_eq!(world.sends(&client, segment(0, 0, 0)), there);
        assert_eq!((world.flows(), world.entries()), ((0, 0), 0), "unanswered");
        assert_eq!(world.sends(&there.reversed(), segment(0, 0, 0)), client.reversed());
        assert_eq!((world.flows(), world.entries()), ((1, 0), 2));
        let reverse = world.entry(&there.reversed()).expect("a reverse entry");
        assert_ne!(reverse.flags & flow_flags::REVERSE, 0);
        assert_eq!(reverse.packets, 1);
        world.choose(2);
        assert_eq!(world.sends(&client, segment(0, 0, 0)), there);
    }

    pub(super) fn udp_expires<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, UDP);
        let there = world.sends(&client, segment(0, 0, 0));
        world.sends(&there.reversed(), segment(0, 0, 0));
        world.choose(2);
        world.wait(2_000);
        assert_eq!(world.sends(&client, segment(0, 0, 0)), there, "at its lifetime");
        world.wait(2_001);
        assert_ne!(world.sends(&client, segment(0, 0, 0)).dst, there.dst, "after it");
        assert_eq!((world.flows(), world.entries()), ((1, 1), 0));
    }

    pub(super) fn the_sweep_takes_what_has_expired<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let (idle, busy) = (World::<A>::client(4000, 6), World::<A>::client(4001, 6));
        let there = world.establish(&idle);
        world.establish(&busy);
        world.wait(6_000);
        // Either direction keeps a flow.
        world.sends(&busy, segment(ACK, 1001, 5001));
        world.wait(4_000);
        reclaim::sweep::<A, _>(&world.memory, 16);
        assert_eq!((world.flows(), world.entries()), ((2, 0), 4), "at its lifetime");
        world.wait(1);
        reclaim::sweep::<A, _>(&world.memory, 16);
        assert_eq!((world.flows(), world.entries()), ((2, 1), 2));
        assert!(world.entry(&idle).is_none() && world.entry(&there.reversed()).is_none());
        reclaim::sweep::<A, _>(&world.memory, 16);
        assert_eq!(world.flows(), (2, 1), "counted once");
    }
}
