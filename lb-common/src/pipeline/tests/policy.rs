//! What a new policy does to flows admitted under an earlier one.

use super::world::both;

both!(
    a_revoked_client_is_cut_off_from_either_side,
    a_service_taken_away_cuts_its_flows_off,
    flows_that_policy_allows_go_on,
    tcp_of_a_target_that_ends_is_answered_with_a_reset,
    udp_of_a_target_that_ends_is_chosen_anew,
);

mod cases {
    use crate::{
        abi::{UDP, target_flags},
        memory::{Families, Memory},
        tables::Tables,
        verdict::Verdict,
    };

    use super::super::world::{ACK, In, RST, SERVICE, World, address, segment};

    pub(super) fn a_revoked_client_is_cut_off_from_either_side<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        for from_target in [false, true] {
            let mut world = World::<A>::new(8);
            let client = World::<A>::client(4000, 6);
            let there = world.establish(&client);
            A::family(&mut world.memory).access[0].push((SERVICE, address(50), A::BITS, false));
            let (first, second) =
                if from_target { (there.reversed(), client) } else { (client, there.reversed()) };
            assert_eq!(
                world.send(&first, segment(ACK, 1, 1)).verdict,
                Verdict::Transmitted,
                "the epoch stands"
            );
            world.memory.control.epoch += 1;
            assert_eq!(world.send(&first, segment(ACK, 1, 1)).verdict, Verdict::DropAccessRevoked);
            assert_eq!((world.flows(), world.entries()), ((1, 1), 0));
            let then = if from_target { Verdict::DropAccessDenied } else { Verdict::PassHost };
            assert_eq!(world.send(&second, segment(ACK, 1, 1)).verdict, then);
        }
    }

    pub(super) fn a_service_taken_away_cuts_its_flows_off<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        world.establish(&client);
        A::family(&mut world.memory).services[0].retain(|key, _| key.port.get() != 80);
        world.memory.control.epoch += 1;
        assert_eq!(world.send(&client, segment(ACK, 1, 1)).verdict, Verdict::DropAccessRevoked);
        assert_eq!(world.send(&client, segment(ACK, 1, 1)).verdict, Verdict::DropUndeclaredPort);
        assert_eq!(world.flows(), (1, 1));
    }

    pub(super) fn flows_that_policy_allows_go_on<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, 6);
        let there = world.establish(&client);
        world.choose(2);
        world.memory.targets[1].flags = target_flags::NO_NEW_FLOWS | target_flags::END_UDP;
        world.memory.control.epoch += 1;
        assert_eq!(world.sends(&client, segment(ACK, 1001, 5001)), there);
        assert_eq!(world.sends(&there.reversed(), segment(ACK, 5001, 1001)), client.reversed());
        let epochs = [client, there.reversed()].map(|key| world.entry(&key).map(|flow| flow.epoch));
        assert_eq!(epochs, [Some(2), Some(2)], "each direction was checked once");
    }

    pub(super) fn tcp_of_a_target_that_ends_is_answered_with_a_reset<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        for replaced in [false, true] {
            let mut world = World::<A>::new(8);
            let client = World::<A>::client(4000, 6);
            let there = world.establish(&client);
            if replaced {
                world.memory.targets[1].incarnation += 1;
            } else {
                world.memory.targets[1].flags = target_flags::END_TCP;
            }
            world.memory.control.epoch += 1;
            let came = world.send(&client, segment(ACK, 1001, 5001));
            assert_eq!((came.verdict, came.key), (Verdict::AnsweredReset, client.reversed()));
            assert_eq!((world.flows(), world.entries()), ((1, 1), 0));
            assert_eq!(world.send(&there.reversed(), segment(ACK, 5001, 1001)).verdict, Verdict::PassHost);

            // The target's side may be the next to be heard.
            let there = world.establish(&client);
            if replaced {
                world.memory.targets[1].incarnation += 1;
            }
            world.memory.control.epoch += 1;
            let came = world.send(&there.reversed(), segment(ACK, 5001, 1001));
            assert_eq!(
                (came.verdict, came.key, came.flags),
                (Verdict::Transmitted, client.reversed(), RST | ACK)
            );
            assert_eq!((world.flows(), world.entries()), ((2, 2), 0));
        }
    }

    pub(super) fn udp_of_a_target_that_ends_is_chosen_anew<A: In>()
    where
        Memory: Tables<A> + Families<A>,
    {
        let mut world = World::<A>::new(8);
        let client = World::<A>::client(4000, UDP);
        let there = world.sends(&client, segment(0, 0, 0));
        world.sends(&there.reversed(), segment(0, 0, 0));
        world.choose(2);
        world.memory.targets[1].flags = target_flags::END_UDP;
        world.memory.control.epoch += 1;
        let again = world.sends(&client, segment(0, 0, 0));
        assert_ne!(again.dst, there.dst);
        assert_eq!(world.flows(), (1, 1));
        assert_eq!(world.sends(&again.reversed(), segment(0, 0, 0)), client.reversed());
        assert_eq!(world.flows(), (2, 1));
    }
}
