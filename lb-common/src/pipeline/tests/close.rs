//! The end of connections, and what may come after it from the same port.

use super::world::both;

both!(
    an_end_is_counted_once,
    a_reused_client_port_starts_a_new_flow,
    a_syn_within_a_live_flow_stays_in_it,
    a_resting_port_is_taken_when_the_client_closed_first,
    a_port_that_the_target_rests_is_taken_only_by_a_syn_that_it_takes,
    half_a_flow_takes_no_other_away,
    what_another_processor_has_just_touched_is_not_old,
    a_reset_out_of_place_ends_no_flow,
    a_reset_out_of_place_ends_no_handshake,
);

mod cases {
    use crate::{
        abi::FlowKey,
        memory::{Families, Memory},
        pipeline::reclaim,
        tables::Tables,
        verdict::Verdict,
    };

    use super::super::world::{ACK, FIN, In, RST, SYN, SYN_ACK, World, segment};

    pub(super) fn an_end_is_counted_once<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        let there = world.establish(&client);
        world.sends(&client, segment(FIN, 1001, 5001));
        assert_eq!(world.flows(), (1, 0), "one side");
        world.sends(&there.reversed(), segment(FIN, 5001, 1002));
        assert_eq!(world.flows(), (1, 1));
        world.sends(&there.reversed(), segment(FIN, 5001, 1002));
        world.sends(&client, segment(FIN, 1001, 5001));
        world.sends(&client, segment(RST, 1002, 0));
        world.sends(&there.reversed(), segment(RST, 5002, 0));
        assert_eq!(world.flows(), (1, 1), "whatever comes after");
        world.wait(501);
        reclaim::sweep::<A, _>(&world.memory, 16);
        assert_eq!((world.flows(), world.entries()), ((1, 1), 0), "nor by the sweep");
    }

    pub(super) fn a_reused_client_port_starts_a_new_flow<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        // Closed by both; by the client alone; gone without a word.
        for end in 0..3 {
            world.choose(1);
            let there = world.establish(&client);
            if end < 2 {
                world.sends(&client, segment(FIN, 1001, 5001));
            }
            if end == 0 {
                world.sends(&there.reversed(), segment(FIN, 5001, 1002));
            }
            if end == 2 {
                world.wait(10_001);
            }
            world.choose(2);
            let again = world.sends(&client, segment(SYN, 9000, 0));
            assert_ne!(again.dst, there.dst, "end {end}: chosen anew");
            assert_eq!(world.flows().1, end + 1, "end {end}");
            world.sends(&client, segment(RST, 9001, 0));
        }
    }

    pub(super) fn a_syn_within_a_live_flow_stays_in_it<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        let there = world.establish(&client);
        world.choose(2);
        // The target answers it with a challenge (RFC 5961).
        assert_eq!(world.sends(&client, segment(SYN, 9000, 0)), there);
        assert_eq!(world.sends(&client, segment(ACK, 1001, 5001)), there);
        assert_eq!(world.flows(), (1, 0));
    }

    pub(super) fn a_resting_port_is_taken_when_the_client_closed_first<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(1);
        let (first, second) = (World::<A>::client(4000, 6), World::<A>::client(4001, 6));
        let there = world.establish(&first);
        assert_eq!(world.send(&second, segment(SYN, 0, 0)).verdict, Verdict::DropSnatExhausted, "it is live");
        world.sends(&first, segment(FIN, 1001, 5001));
        assert_eq!(
            world.send(&second, segment(SYN, 0, 0)).verdict,
            Verdict::DropSnatExhausted,
            "half of it is"
        );
        world.sends(&there.reversed(), segment(FIN, 5001, 1002));
        // The target's last packets still find the old flow.
        assert_eq!(world.sends(&there.reversed(), segment(FIN, 5001, 1002)), first.reversed());
        assert_eq!(world.establish(&second), there);
        assert_eq!((world.flows(), world.entries()), ((2, 1), 2), "the old flow made room");
        assert_eq!(world.sends(&there.reversed(), segment(ACK, 5001, 1001)), second.reversed());
    }

    pub(super) fn a_port_that_the_target_rests_is_taken_only_by_a_syn_that_it_takes<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let refused = Verdict::DropSnatExhausted;
        // The client's FIN: its timestamp; the SYN's sequence and timestamp; whether Linux would take it. The FIN's end is 1002.
        for (old, sequence, new, takes) in [
            (None, 1003, None, true),
            (None, 1002, None, false),
            (None, 1001u32.wrapping_sub(1 << 30), None, false),
            (Some(70), 1, Some(71), true),
            (Some(70), 2000, Some(69), false),
            (Some(70), 1003, Some(70), true),
            (Some(70), 1002, Some(70), false),
            (Some(70), 1003, None, true),
            (None, 1001, Some(70), false),
        ] {
            let mut world = World::<A>::new(1);
            let (first, second) = (World::<A>::client(4000, 6), World::<A>::client(4001, 6));
            let there = world.establish(&first);
            world.sends(&there.reversed(), segment(FIN, 5001, 1001));
            let mut fin = segment(FIN, 1001, 5002);
            fin.timestamp = old;
            world.sends(&first, fin);
            world.sends(&there.reversed(), segment(ACK, 5002, 1002));
            let mut syn = segment(SYN, sequence, 0);
            syn.timestamp = new;
            let wanted = if takes { Verdict::Transmitted } else { refused };
            assert_eq!(world.send(&second, syn).verdict, wanted, "{old:?}: {sequence} {new:?}");
            // When the port has rested, any SYN will do.
            let mut world = World::<A>::new(1);
            let there = world.establish(&first);
            world.sends(&there.reversed(), segment(FIN, 5001, 1001));
            world.sends(&first, fin);
            world.wait(501);
            assert_eq!(world.sends(&second, syn), there, "after the rest");
            assert_eq!(world.flows(), (1, 1));
        }
    }

    /// Its clock was read a tick later than ours.
    pub(super) fn what_another_processor_has_just_touched_is_not_old<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(1);
        let (first, second) = (World::<A>::client(4000, 6), World::<A>::client(4001, 6));
        let refused = Verdict::DropSnatExhausted;
        let there = world.establish(&first);
        world.memory.clock.set(world.memory.clock.get() - 1);
        assert_eq!(world.send(&second, segment(SYN, 0, 0)).verdict, refused, "the flow lives");
        reclaim::sweep::<A, _>(&world.memory, 16);
        assert_eq!((world.flows(), world.entries()), ((1, 0), 2));
        assert_eq!(world.sends(&first, segment(ACK, 1001, 5001)), there);

        // An unfinished handshake keeps its port where there is another, for one who would have had it first.
        let alone = |client: &FlowKey<A>| World::<A>::new(2).sends(client, segment(SYN, 0, 0));
        let wants_the_same = |client: &FlowKey<A>| alone(client) == alone(&first);
        let rival = (4001..4100).map(|port| World::<A>::client(port, 6)).find(wants_the_same);
        let rival = rival.expect("every other client begins with the same of two ports");
        let mut world = World::<A>::new(2);
        let one = world.sends(&first, segment(SYN, 0, 0));
        world.memory.clock.set(world.memory.clock.get() - 1);
        assert_ne!(world.sends(&rival, segment(SYN, 0, 0)), one);
    }

    pub(super) fn half_a_flow_takes_no_other_away<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        for epoch in [0, 1] {
            let mut world = World::<A>::new(1);
            let (first, second) = (World::<A>::client(4000, 6), World::<A>::client(4001, 6));
            let there = world.establish(&first);
            Tables::<A>::remove_flow(&world.memory, &there.reversed());
            assert_eq!(world.establish(&second), there);
            world.memory.control.epoch += epoch;
            let came = world.send(&first, segment(SYN, 9000, 0));
            assert_eq!(came.verdict, Verdict::DropSnatExhausted, "the port is another's");
            assert!(world.entry(&first).is_none());
            assert_eq!(world.sends(&second, segment(ACK, 1001, 5001)), there);
            assert_eq!(world.sends(&there.reversed(), segment(ACK, 5001, 1001)), second.reversed());
        }
    }

    pub(super) fn a_reset_out_of_place_ends_no_flow<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        let there = world.establish(&client);
        // It goes on, since only its receiver knows for sure.
        assert_eq!(world.sends(&client, segment(RST, 1000, 0)), there, "before what the target has");
        assert_eq!(world.sends(&client, segment(RST, 1001 + (1 << 30), 0)), there, "far beyond it");
        world.sends(&there.reversed(), segment(RST, 5000, 0));
        assert_eq!(world.flows(), (1, 0));
        world.wait(501);
        assert_eq!(world.sends(&client, segment(ACK, 1001, 5001)), there, "it outlives a closed flow's rest");
        // The target has acknowledged more by now; a little more is on the way.
        world.sends(&there.reversed(), segment(ACK, 5001, 4000));
        world.sends(&client, segment(RST, 3999, 0));
        assert_eq!(world.flows(), (1, 0));
        world.sends(&client, segment(RST, 5000, 0));
        assert_eq!(world.flows(), (1, 1));
    }

    pub(super) fn a_reset_out_of_place_ends_no_handshake<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        let there = world.sends(&client, segment(SYN, 1000, 0));
        // What a client answers to a target that still holds the tuple in TIME_WAIT; and its SYN again.
        assert_eq!(world.sends(&client, segment(RST, 77, 0)), there);
        assert_eq!(world.sends(&client, segment(SYN, 1000, 0)), there, "the same port");
        world.sends(&there.reversed(), segment(RST, 0, 0));
        assert_eq!(world.sends(&there.reversed(), segment(SYN_ACK, 5000, 1001)), client.reversed());
        world.sends(&there.reversed(), segment(RST, 5000, 0));
        assert_eq!(world.sends(&client, segment(RST, 1000, 0)), there);
        assert_eq!(world.sends(&client, segment(ACK, 1001, 5001)), there);
        assert_eq!((world.flows(), world.entries()), ((1, 0), 2));

        // And in place they do: refused by the target, given up by either.
        for (from_client, reset) in [
            (false, segment(RST | ACK, 0, 1001)),
            (false, segment(RST, 5001, 0)),
            (true, segment(RST, 1001, 0)),
        ] {
            let mut world = World::<A>::new(8);
            let there = world.sends(&client, segment(SYN, 1000, 0));
            world.sends(&there.reversed(), segment(SYN_ACK, 5000, 1001));
            world.sends(&if from_client { client } else { there.reversed() }, reset);
            let came = world.send(&client, segment(ACK, 1001, 5001));
            assert_eq!((came.verdict, world.entries()), (Verdict::AnsweredReset, 0), "{from_client}");
        }
    }
}
