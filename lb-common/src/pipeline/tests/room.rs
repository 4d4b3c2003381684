//! Room in the flow table: what a new flow may take, and what it may not.

use super::world::both;

both!(
    a_run_of_live_flows_does_not_refuse_new_ones_while_there_is_room,
    a_closed_flow_gives_up_its_rest_before_a_new_one_is_refused,
);

mod cases {
    use crate::{
        memory::{Families, Memory},
        tables::Tables,
        verdict::Verdict,
    };

    use super::super::world::{ACK, FIN, In, SYN, SYN_ACK, World, segment};

    /// Flows that the table of these tests holds.
    const FLOWS: u16 = 600;

    fn world<A: In>() -> World<A>
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(u32::from(FLOWS) * 8);
        world.memory.control.ring = FLOWS.into();
        world.memory.control.handshakes = u32::from(FLOWS) * 8;
        A::family(&mut world.memory).size(FLOWS.into(), u32::from(FLOWS) * 8);
        world
    }

    pub(super) fn a_run_of_live_flows_does_not_refuse_new_ones_while_there_is_room<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = world::<A>();
        // Half the ring lives on in one piece, then the other half closes: the hand comes to the live ones next.
        for port in 0..FLOWS {
            let client = World::<A>::client(10_000 + port, 6);
            let there = world.establish(&client);
            if port >= FLOWS / 2 {
                world.sends(&client, segment(FIN, 1001, 5001));
                world.sends(&there.reversed(), segment(FIN, 5001, 1002));
            }
        }
        world.wait(501);
        // Up to five sixths full none is refused; nearer to the end the few places left may be missed.
        for port in 0..FLOWS / 3 {
            world.establish(&World::<A>::client(20_000 + port, 6));
        }
        assert_eq!(world.flows().0, u64::from(FLOWS + FLOWS / 3));
    }

    pub(super) fn a_closed_flow_gives_up_its_rest_before_a_new_one_is_refused<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = world::<A>();
        for port in 0..FLOWS {
            let client = World::<A>::client(10_000 + port, 6);
            let there = world.establish(&client);
            world.sends(&client, segment(FIN, 1001, 5001));
            world.sends(&there.reversed(), segment(FIN, 5001, 1002));
        }
        for port in 0..FLOWS {
            world.establish(&World::<A>::client(20_000 + port, 6));
        }
        // Now all live: nothing is taken from them.
        let late = World::<A>::client(30_000, 6);
        let there = world.sends(&late, segment(SYN, 1000, 0));
        world.sends(&there.reversed(), segment(SYN_ACK, 5000, 1001));
        assert_eq!(world.send(&late, segment(ACK, 1001, 5001)).verdict, Verdict::DropFlowTableFull);
        assert_eq!(world.flows(), (2 * u64::from(FLOWS), u64::from(FLOWS)));
    }
}
