"""Root causes of synthetic fault tickets: what points to each of them, and what the runbook answers.

The evidence is phrased differently in every split and keeps its vocabulary (loss of light, hold timer, leases, …). The
answers come from one runbook and are phrased alike: what is to be learned is which one applies, and its details.
"""

from dataclasses import dataclass
from typing import Final

from energyaware.tasks.phrases import Phrases


@dataclass(frozen=True)
class Cause:
    """One root cause.

    Attributes:
        logs: words of its evidence, as they turn up in logs; comma-separated.
        herrings: symptoms of it that a ticket about another cause may mention and explain away.
        answer: what the runbook answers.
        evidence: sentences that point to it.
    """

    logs: str
    herrings: tuple[str, ...]
    answer: str
    evidence: Phrases

    @property
    def terms(self) -> tuple[str, ...]:
        """The words of `logs`, one by one."""
        return tuple(self.logs.split(", "))


CAUSES: Final[dict[str, Cause]] = {
    "fibre cut": Cause(
        logs="otdr, light, span, duct, strand, optical, receive power, dark, excavator, reflection",
        herrings=("low receive power", "otdr reflection", "loss of light"),
        answer="Fibre broken behind {port} at {site}. Send a splicing crew with an otdr {when}.",
        evidence=Phrases(
            train=(
                "Loss of light on {port} in both directions.",
                "Otdr shows a reflection at {km} km.",
                "Receive power fell to -40 dBm towards {peer}.",
                "An excavator digs along the duct to {peer}.",
                "Both strands of the duct went dark.",
                "Optical span to {peer} is dark since {minutes} minutes.",
            ),
            validation=("The span shows loss of light at {km} km.", "Otdr reflection where the excavator digs."),
            test=(
                "Light lost on {port}, the span is dark.",
                "Reflection {km} km out on the otdr towards {peer}.",
                "Digging near the duct, receive power -40 dBm.",
                "Dark strands in both directions to {peer}.",
            ),
        ),
    ),
    "power failure": Cause(
        logs="mains, battery, rectifier, breaker, generator, undervoltage, blackout, volts, dying gasp, utility",
        herrings=("breaker trip", "battery alarm", "rectifier alarm"),
        answer="Mains supply lost at {site}. Bring a generator for the {node} and reset the breaker {when}.",
        evidence=Phrases(
            train=(
                "Mains input is absent, site runs on battery.",
                "Battery voltage fell to {n} volts.",
                "Rectifier reports undervoltage.",
                "The main breaker tripped {minutes} minutes ago.",
                "Generator did not start after the blackout.",
                "Dying gasp received, utility blackout in the area.",
            ),
            validation=("Utility reports a blackout, generator off.", "Breaker tripped and battery voltage is low."),
            test=(
                "Rectifier input absent, battery discharging.",
                "Blackout in the area, the generator failed to start.",
                "Dying gasp, then undervoltage on the mains.",
                "A tripped breaker left the battery at {n} volts.",
            ),
        ),
    ),
    "bgp flap": Cause(
        logs="hold timer, neighbor, prefixes, as path, idle, established, withdrawn, cease, routes, oscillate",
        herrings=("neighbor reset", "route withdrawal", "hold timer alarm"),
        answer="Routing session on {port} at {site} unstable. Damp the neighbor and raise its hold timer {when}.",
        evidence=Phrases(
            train=(
                "Hold timer expired for neighbor {peer}, {n} times.",
                "Session goes from established to idle and back.",
                "{n} prefixes withdrawn and announced again.",
                "As path changes every {minutes} seconds.",
                "Neighbor {peer} sends cease notifications.",
                "Routes to {peer} oscillate, prefixes come and go.",
            ),
            validation=("Neighbor session idle, hold timer expired.", "Prefixes oscillate with the as path."),
            test=(
                "Established, idle, established: session to {peer}.",
                "Neighbor {peer} withdrawn {n} prefixes and announced them.",
                "Expired hold timer, then a cease notification.",
                "The as path and routes oscillate.",
            ),
        ),
    ),
    "dns misconfiguration": Cause(
        logs="resolver, nxdomain, servfail, zone, serial, record, hostname, lookups, names, ping",
        herrings=("slow lookups", "resolver timeout", "nxdomain answers"),
        answer="Zone data for {site} wrong. Correct the record on the resolver and flush its cache {when}.",
        evidence=Phrases(
            train=(
                "Resolver answers nxdomain for valid names.",
                "Ping by address works, by hostname fails.",
                "Zone serial differs between the name servers.",
                "Lookups return servfail since the zone edit.",
                "The record points to an address of {peer}.",
                "Hostname lookups resolve to a wrong record.",
            ),
            validation=("Servfail from the resolver, addresses work.", "Wrong zone serial, names fail."),
            test=(
                "Names fail with nxdomain, ping by address works.",
                "After the zone edit the resolver returns servfail.",
                "A wrong record resolves hostname to {peer}.",
                "Serial of the zone differs, lookups fail.",
            ),
        ),
    ),
    "link congestion": Cause(
        logs="queue, drops, utilisation, buffers, busy hour, latency, load, line rate, traffic, evening",
        herrings=("queue drops", "busy hour load", "high utilisation"),
        answer="Link {port} at {site} overloaded. Move traffic to a second path and order more capacity {when}.",
        evidence=Phrases(
            train=(
                "Utilisation of {port} is {percent} percent.",
                "Output queue drops rise in the busy hour.",
                "Latency grows with load and falls at night.",
                "Tail drops on {port}, buffers full.",
                "Video traffic fills the queue each evening.",
                "Traffic on {port} reached line rate, {percent} percent load.",
            ),
            validation=("Busy hour load {percent} percent, tail drops.", "Full buffers, latency grows with traffic."),
            test=(
                "Queue drops while utilisation is {percent} percent.",
                "Evening traffic at line rate, latency rises.",
                "Buffers of {port} full in the busy hour.",
                "Load of {percent} percent, tail drops in the output queue.",
            ),
        ),
    ),
    "licence expiry": Cause(
        logs="entitlement, grace period, feature, activation, subscription, key, capped, lapsed, disabled, premium",
        herrings=("entitlement warning", "grace period notice", "feature key warning"),
        answer="Entitlement of the {node} at {site} has lapsed. Order and install a new feature key {when}.",
        evidence=Phrases(
            train=(
                "Grace period ended, feature disabled.",
                "Sessions capped at {n} by the entitlement.",
                "Feature key is no longer valid.",
                "Entitlement server rejects the activation.",
                "Subscription lapsed {n} days ago, throughput capped.",
                "Premium feature disabled, activation key refused.",
            ),
            validation=("Activation refused, subscription lapsed.", "Entitlement ended, feature capped."),
            test=(
                "The feature was disabled as the grace period ended.",
                "Lapsed subscription, {n} sessions capped.",
                "Activation key rejected by the entitlement server.",
                "Feature key not valid, throughput capped.",
            ),
        ),
    ),
    "clock loss": Cause(
        logs="grandmaster, holdover, phase, ptp, gnss, satellites, stratum, drift, frequency, slip",
        herrings=("phase alarm", "holdover event", "grandmaster switch"),
        answer="Timing lost at {site}. Switch the {node} to the backup grandmaster and check the receiver {when}.",
        evidence=Phrases(
            train=(
                "Grandmaster unreachable, node in holdover.",
                "Phase offset grew to {n} microseconds.",
                "Gnss receiver tracks no satellites.",
                "Frequency drift, stratum fell to {minutes}.",
                "Ptp slave lost its grandmaster at {peer}.",
                "Holdover since {hours} hours, frames slip.",
            ),
            validation=("Ptp in holdover, phase drift.", "No satellites, the stratum fell."),
            test=(
                "Holdover, phase offset of {n} microseconds.",
                "Gnss lost its satellites, frequency drift.",
                "Ptp grandmaster {peer} is unreachable.",
                "Stratum fell and frames slip.",
            ),
        ),
    ),
    "card failure": Cause(
        logs="module, slot, parity, asic, heartbeat, self test, memory, led, reseating, uncorrectable",
        herrings=("parity error", "slot alarm", "memory error"),
        answer="Line module with {port} at {site} defective. Replace the module from spare stock {when}.",
        evidence=Phrases(
            train=(
                "Parity errors in slot {minutes}, module reset.",
                "Module in slot {minutes} sends no heartbeat.",
                "Self test of the asic did not pass.",
                "Memory errors, then the line module rebooted.",
                "Reseating the module did not help, led is red.",
                "Asic of the line module reports uncorrectable errors.",
            ),
            validation=("Red led, the module heartbeat stopped.", "Asic self test failed in slot {minutes}."),
            test=(
                "No heartbeat from the module, parity errors.",
                "Slot {minutes} led is red after reseating.",
                "Uncorrectable memory errors on the asic.",
                "Line module rebooted, self test not passed.",
            ),
        ),
    ),
    "antenna fault": Cause(
        logs="vswr, sector, feeder, jumper, tilt, reflected, connector, radio, coverage, corroded",
        herrings=("vswr warning", "sector alarm", "reflected power"),
        answer="Antenna line of the sector at {site} defective. Send riggers to check feeder and jumper {when}.",
        evidence=Phrases(
            train=(
                "Vswr of the sector is above limit.",
                "Reflected power on the feeder, {n} watts.",
                "Water in the jumper after the storm.",
                "Diversity branches differ by {n} dB.",
                "Sector coverage shrank, tilt motor stuck.",
                "Feeder connector corroded, radio output reduced.",
            ),
            validation=("Sector vswr high, water in the feeder.", "Corroded jumper, coverage shrank."),
            test=(
                "High reflected power, vswr above limit.",
                "Storm left water in the feeder connector.",
                "Tilt motor stuck, the sector shrank.",
                "Radio branches differ by {n} dB, jumper corroded.",
            ),
        ),
    ),
    "config push error": Cause(
        logs="commit, template, automation, diff, acl, rollback, vlan, rollout, script, change",
        herrings=("change request", "commit warning", "template edit"),
        answer="Faulty change on {port} at {site}. Roll back the last commit and correct the template {when}.",
        evidence=Phrases(
            train=(
                "Began right after the automation job committed.",
                "Diff shows an acl deleted by the template.",
                "Commit {n} of the change put {port} in a wrong vlan.",
                "Rollback of the change on {peer} restored service.",
                "Rollout script wrote the wrong vlan.",
                "Automation applied the template to the wrong group.",
            ),
            validation=("Template rollout deleted an acl.", "Commit {n}, wrong vlan in the diff."),
            test=(
                "The automation script committed a wrong acl.",
                "Right after the rollout {port} was in a wrong vlan.",
                "Diff of commit {n} shows the template change.",
                "Service restored on {peer} after rollback of the job.",
            ),
        ),
    ),
    "certificate expiry": Cause(
        logs="tls, x509, handshake, validity, chain, trust, ca, tunnel, outdated, not after",
        herrings=("tls warning", "chain warning", "handshake alert"),
        answer="Trust chain of the {node} at {site} out of date. Issue a new x509 and reload the tls service {when}.",
        evidence=Phrases(
            train=(
                "Tls handshake fails with a validity error.",
                "X509 not after date was {n} days ago.",
                "Peers refuse the trust chain.",
                "Ipsec tunnel to {peer} rejected, x509 outdated.",
                "Api calls fail, ca says outdated.",
                "Secure session refused, tls validity date passed.",
            ),
            validation=("Outdated x509, tls refused.", "Trust chain validity passed, api calls fail."),
            test=(
                "Handshake of the tls session refused, date passed.",
                "The ca chain is outdated since {n} days.",
                "Tunnel to {peer} fails with x509 validity.",
                "Trust refused, not after date in the past.",
            ),
        ),
    ),
    "dhcp exhaustion": Cause(
        logs="lease, pool, discover, offer, scope, address, clients, subscribers, free, conflict",
        herrings=("lease warning", "address conflict", "scope warning"),
        answer="Address scope at {site} used up. Enlarge the pool and shorten the lease time {when}.",
        evidence=Phrases(
            train=(
                "No free leases in the pool.",
                "Clients send discover but get no offer.",
                "New subscribers stay without an address.",
                "Scope is {percent} percent used.",
                "Pool has 0 free addresses, {n} leases.",
                "Old clients keep leases, new clients get none.",
            ),
            validation=("Pool without free leases, no offer.", "New clients without address, scope used."),
            test=(
                "Discover gets no offer, pool is used up.",
                "{n} leases, 0 free in the scope.",
                "Subscribers get no address, old ones keep leases.",
                "Addresses of the pool {percent} percent used.",
            ),
        ),
    ),
}
"""By label, in the order in which labels are listed."""
